"""Archive: every event, losslessly, as files in a folder or a bucket.

Layout, file names and the proof that each event lies there exactly once are in `mainstem.lake`; this module
holds the settings. RudderStack's object-storage destinations (S3, GCS, AZURE_BLOB, MINIO,
DIGITAL_OCEAN_SPACES) are accepted with the settings they have there
(https://github.com/rudderlabs/rudder-integrations-config, read 2026-11) and write the same files below their
`prefix`: the layout is ours, not `rudder-logs/`.

Auth: keys in the settings, else what the machine has (environment, instance role, workload identity). A role
to assume (`iamRoleARN`) is used with a web identity token of the machine; without one, the machine's own
rights must reach the bucket.
Limits: one object is at most one flush (`maxBytes`), far below the 5 GB of a single S3 object copy.
"""

from typing import Annotated, Final, Literal, Protocol

import msgspec

from mainstem.destinations.base import DestinationSpec
from mainstem.secret import NO_SECRET, Secret

Format = Literal["jsonl", "parquet"]
ALL_TYPES: Final = frozenset({"identify", "track", "page", "screen", "group", "alias", "merge"})


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings of an archive."""

    url: str = "archive"
    """Where: a folder (a path, `file:///path`; a relative path lies in the data directory), `s3://bucket`,
    `gs://bucket` or `az://container`."""
    prefix: str = ""
    """Folder inside it under which everything is written."""
    formats: Annotated[tuple[Format, ...], msgspec.Meta(min_length=1)] = ("jsonl",)
    """jsonl: gzip JSON lines; parquet; or both."""
    include_rejected: bool = True
    """Keep events that the gateway rejected, too, below `rejected/`."""
    max_events: Annotated[int, msgspec.Meta(ge=1, le=5_000_000)] = 100_000
    """Flush when this many events are gathered …"""
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=4 * 1024**3)] = 64 * 1024 * 1024
    """… or this many bytes of events, before compression …"""
    max_age_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """… or when the first of them was read this long ago."""
    compression_level: Annotated[int, msgspec.Meta(ge=1, le=9)] = 3
    """gzip level of JSON lines; see the reference for what each costs."""
    endpoint: str = ""
    """URL of an S3-compatible server (MinIO …), of a GCS or an Azure emulator; empty = the vendor's own."""
    region: str = ""
    """S3 region; empty = from the environment, else us-east-1."""
    path_style: bool = True
    """S3: bucket in the path (`false`: in the host name)."""
    server_side_encryption: Literal["", "AES256", "aws:kms"] = ""
    """S3: ask for encryption at rest explicitly (buckets encrypt by default)."""
    role_arn: str = ""
    """S3: role to assume with the machine's web identity token."""
    access_key_id: Secret = NO_SECRET
    """S3 access key id."""
    secret_access_key: Secret = NO_SECRET
    """S3 secret access key."""
    session_token: Secret = NO_SECRET
    """S3 session token of temporary keys."""
    credentials: Secret = NO_SECRET
    """GCS: service account key, the JSON itself."""
    account_name: str = ""
    """Azure: storage account."""
    account_key: Secret = NO_SECRET
    """Azure: account key."""
    sas_token: Secret = NO_SECRET
    """Azure: shared access signature."""


class ArchiveSettings(Protocol):
    """Settings of any destination type that is written by the archiver."""

    def archive(self) -> Config:
        """Return them as archive settings."""
        ...


class S3Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """RudderStack's S3 settings."""

    bucket_name: str
    prefix: str = ""
    role_based_auth: bool = True
    iam_role_arn: str = msgspec.field(default="", name="iamRoleARN")
    access_key_id: Secret = msgspec.field(default=NO_SECRET, name="accessKeyID")
    access_key: Secret = NO_SECRET
    enable_sse: bool = msgspec.field(default=False, name="enableSSE")
    region: str = ""
    """Not one of RudderStack's: the bucket's region, when it is not the environment's."""

    def archive(self) -> Config:
        keys = bool(self.access_key_id) and not (self.role_based_auth and self.iam_role_arn)
        return Config(
            url=f"s3://{self.bucket_name}",
            prefix=self.prefix,
            region=self.region,
            path_style=False,
            server_side_encryption="AES256" if self.enable_sse else "",
            role_arn=self.iam_role_arn if self.role_based_auth else "",
            access_key_id=self.access_key_id if keys else NO_SECRET,
            secret_access_key=self.access_key if keys else NO_SECRET,
        )


class MinioConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """RudderStack's MINIO settings."""

    end_point: str
    bucket_name: str
    access_key_id: Secret = msgspec.field(default=NO_SECRET, name="accessKeyID")
    secret_access_key: Secret = NO_SECRET
    prefix: str = ""
    use_ssl: bool = msgspec.field(default=True, name="useSSL")

    def archive(self) -> Config:
        return Config(
            url=f"s3://{self.bucket_name}",
            prefix=self.prefix,
            endpoint=_with_scheme(self.end_point, "https" if self.use_ssl else "http"),
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
        )


class SpacesConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """RudderStack's DIGITAL_OCEAN_SPACES settings."""

    end_point: str
    bucket_name: str
    access_key_id: Secret = msgspec.field(default=NO_SECRET, name="accessKeyID")
    access_key: Secret = NO_SECRET
    prefix: str = ""

    def archive(self) -> Config:
        return Config(
            url=f"s3://{self.bucket_name}",
            prefix=self.prefix,
            endpoint=_with_scheme(self.end_point, "https"),
            access_key_id=self.access_key_id,
            secret_access_key=self.access_key,
        )


class GcsConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """RudderStack's GCS settings."""

    bucket_name: str
    prefix: str = ""
    credentials: Secret = NO_SECRET

    def archive(self) -> Config:
        return Config(url=f"gs://{self.bucket_name}", prefix=self.prefix, credentials=self.credentials)


class AzureBlobConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """RudderStack's AZURE_BLOB settings."""

    container_name: str
    account_name: str
    prefix: str = ""
    account_key: Secret = NO_SECRET
    use_sas_tokens: bool = msgspec.field(default=False, name="useSASTokens")
    sas_token: Secret = NO_SECRET

    def archive(self) -> Config:
        return Config(
            url=f"az://{self.container_name}",
            prefix=self.prefix,
            account_name=self.account_name,
            account_key=NO_SECRET if self.use_sas_tokens else self.account_key,
            sas_token=self.sas_token if self.use_sas_tokens else NO_SECRET,
        )


def archive_config(config: Config | ArchiveSettings) -> Config:
    """Return the archive settings of a destination of kind `files`."""
    return config if isinstance(config, Config) else config.archive()


def _with_scheme(end_point: str, scheme: str) -> str:
    return end_point if "://" in end_point else f"{scheme}://{end_point}"


def _spec(name: str, title: str, config: type[msgspec.Struct], doc_url: str) -> DestinationSpec:
    return DestinationSpec(
        name=name, title=title, kind="files", config=config, message_types=ALL_TYPES, doc_url=doc_url
    )


_RUDDER_DOCS: Final = "https://www.rudderstack.com/docs/destinations/streaming-destinations"
SPEC: Final = _spec("ARCHIVE", "Archive", Config, "docs/reference/archive.md")
S3: Final = _spec("S3", "Amazon S3", S3Config, f"{_RUDDER_DOCS}/amazon-s3/")
MINIO: Final = _spec("MINIO", "MinIO", MinioConfig, f"{_RUDDER_DOCS}/minio/")
GCS: Final = _spec("GCS", "Google Cloud Storage", GcsConfig, f"{_RUDDER_DOCS}/google-cloud-storage/")
AZURE_BLOB: Final = _spec(
    "AZURE_BLOB", "Azure Blob Storage", AzureBlobConfig, f"{_RUDDER_DOCS}/microsoft-azure-blob-storage/"
)
DIGITAL_OCEAN_SPACES: Final = _spec(
    "DIGITAL_OCEAN_SPACES", "DigitalOcean Spaces", SpacesConfig, f"{_RUDDER_DOCS}/digitalocean-spaces/"
)
