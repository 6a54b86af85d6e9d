"""Archive in Iceberg: every event, losslessly, as rows of one Apache Iceberg table; exactly once.

The same events with the same columns as [the archive](../archive.md) keeps in files, for those whose history lives in
a catalog: queries by any engine that reads Iceberg, and the source of replays and backfills all the same. What a row is
and how it is read back is on [the archive's page](../archive.md#in-an-iceberg-table).

Follows https://iceberg.apache.org/spec/ (format 2) by pyiceberg 0.12 (https://py.iceberg.apache.org/, read 2026-11).
Needs it installed: `pip install 'mainstem[iceberg]'`. Settings of the catalog and of where its tables lie are those of
[the warehouse ICEBERG](iceberg.md), whose catalog it may share: by default it does.

Auth: keys in the settings, else what the machine has.
Limits: Google Cloud Storage takes the machine's own credentials; Azure is written
`abfss://container@account.dfs.core.windows.net/folder`. Run against: pyiceberg itself with a SQLite catalog, in folders
and on an S3 server of the tests; the REST client against a small REST catalog of the tests. Not against a vendor's REST
catalog, Postgres as catalog, GCS, Azure, Spark or Trino.
"""

from typing import Annotated, Final, Literal

import msgspec

from mainstem.destinations.archive import ALL_TYPES
from mainstem.destinations.base import DestinationSpec
from mainstem.secret import NO_SECRET, Secret


class Config(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Settings of an archive in an Iceberg table."""

    namespace: Annotated[str, msgspec.Meta(min_length=1)] = "archive"
    """The namespace of the table in the catalog."""
    table: Annotated[str, msgspec.Meta(min_length=1)] = "events"
    """The table's name. It is made when it is not there. Each archive needs one of its own."""
    include_rejected: bool = True
    """Keep events that the gateway rejected, too, as rows whose `kind` is `rejected`."""
    max_events: Annotated[int, msgspec.Meta(ge=1, le=5_000_000)] = 200_000
    """Commit when this many events are gathered …"""
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=4 * 1024**3)] = 128 * 1024 * 1024
    """… or this many bytes of events, before compression …"""
    max_age_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    """… or when the first of them was read this long ago. Each commit writes the table's metadata anew, so seldom is
    cheap."""
    compact_every_s: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    """How often small files are joined and old snapshots let go of; 0 = never: other tools do it."""
    keep_snapshots_h: Annotated[float, msgspec.Meta(ge=1)] = 24.0
    """How long, in hours, files that were joined stay for readers that still use them."""
    url: str = "iceberg"
    """Where tables are made: a folder (a relative path lies in the data directory), `s3://bucket/folder`,
    `gs://bucket/folder`, `abfss://container@account.dfs.core.windows.net/folder`; with a REST catalog, what the
    catalog calls its warehouse."""
    endpoint: str = ""
    """URL of an S3-compatible server (MinIO …), of a GCS or an Azure emulator; empty = the vendor's own."""
    region: str = ""
    """S3 region; empty = from the environment, else us-east-1."""
    path_style: bool = True
    """S3: bucket in the path (`false`: in the host name)."""
    server_side_encryption: Literal["", "AES256", "aws:kms"] = ""
    """S3: ask for encryption at rest explicitly (buckets encrypt by default)."""
    role_arn: str = ""
    """S3: role to assume."""
    access_key_id: Secret = NO_SECRET
    """S3 access key id; empty = what the machine has (environment, instance role)."""
    secret_access_key: Secret = NO_SECRET
    """S3 secret access key."""
    session_token: Secret = NO_SECRET
    """S3 session token of temporary keys."""
    account_name: str = ""
    """Azure: storage account."""
    account_key: Secret = NO_SECRET
    """Azure: account key."""
    sas_token: Secret = NO_SECRET
    """Azure: shared access signature."""
    catalog: Literal["sql", "rest"] = "sql"
    """What kind of catalog."""
    catalog_name: str = "mainstem"
    """The catalog's name: other readers of a SQL catalog have to use the same."""
    catalog_uri: Secret = NO_SECRET
    """sql: `sqlite:////path/file.db` or `postgresql+psycopg://user:password@host/database`; empty = a SQLite file
    `catalog.db`, in the folder of the tables or, for buckets, in the data directory. rest: the catalog's URL."""
    catalog_credential: Secret = NO_SECRET
    """rest: `client-id:client-secret` for OAuth."""
    catalog_token: Secret = NO_SECRET
    """rest: a bearer token, instead."""
    oauth2_server_uri: str = ""
    """rest: where the token is asked for, if it is not the catalog itself."""
    oauth2_scope: str = ""
    """rest: the scope to ask for, e.g. `PRINCIPAL_ROLE:ALL` for Polaris."""
    sigv4: bool = False
    """rest: sign requests as AWS does (Glue, S3 Tables); needs boto3."""
    sigv4_service: str = "glue"
    """rest: the name of the AWS service: `glue` or `s3tables`."""

    def addresses(self) -> tuple[str, ...]:
        """Return the URLs that will be asked, of those that the settings name."""
        rest = (self.catalog_uri.reveal(), self.oauth2_server_uri) if self.catalog == "rest" else ()
        return tuple(url for url in (self.endpoint, *rest) if url)


SPEC: Final = DestinationSpec(
    name="ICEBERG_ARCHIVE",
    title="Archive in Iceberg",
    kind="files",
    config=Config,
    message_types=ALL_TYPES,
    doc_url="https://iceberg.apache.org/spec/",
)
