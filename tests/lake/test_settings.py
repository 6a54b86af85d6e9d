"""Settings: ours, and RudderStack's object-storage destinations as they are."""

from typing import Any, cast

import msgspec
import pytest

from mainstem.destinations import archive
from mainstem.destinations.archive import Config, archive_config
from mainstem.destinations.base import DestinationSpec
from mainstem.secret import Secret


def _secret(kind: type, value: Any) -> Any:
    if kind is Secret:
        return Secret(value)
    raise NotImplementedError


def _convert(spec: DestinationSpec, settings: dict[str, Any]) -> Config:
    return archive_config(cast("Any", msgspec.convert(settings, spec.config, dec_hook=_secret)))


def test_defaults() -> None:
    config = _convert(archive.SPEC, {})
    assert config.url == "archive"
    assert config.formats == ("jsonl",)
    assert config.include_rejected
    assert (config.max_events, config.max_bytes, config.max_age_s) == (100_000, 67_108_864, 60.0)


@pytest.mark.parametrize(
    "settings",
    [{"formats": []}, {"formats": ["csv"]}, {"maxEvents": 0}, {"compressionLevel": 0}, {"maxAgeS": -1}],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        _convert(archive.SPEC, settings)


def test_s3() -> None:
    keys = {"bucketName": "b", "prefix": "p", "accessKeyID": "id", "accessKey": "key", "enableSSE": True}
    config = _convert(archive.S3, {**keys, "roleBasedAuth": False})
    assert (config.url, config.prefix, config.server_side_encryption) == ("s3://b", "p", "AES256")
    assert (config.access_key_id, config.secret_access_key) == (Secret("id"), Secret("key"))
    assert not config.path_style
    role = _convert(archive.S3, {**keys, "roleBasedAuth": True, "iamRoleARN": "arn:aws:iam::1:role/r"})
    assert role.role_arn == "arn:aws:iam::1:role/r"
    assert not role.access_key_id


def test_minio() -> None:
    settings = {"endPoint": "minio:9000", "bucketName": "b", "accessKeyID": "id", "secretAccessKey": "key"}
    config = _convert(archive.MINIO, {**settings, "useSSL": False})
    assert (config.url, config.endpoint) == ("s3://b", "http://minio:9000")
    assert config.secret_access_key == Secret("key")
    assert config.path_style
    assert _convert(archive.MINIO, settings).endpoint == "https://minio:9000"


def test_spaces() -> None:
    settings = {
        "endPoint": "https://ams3.example",
        "bucketName": "b",
        "accessKeyID": "id",
        "accessKey": "key",
    }
    config = _convert(archive.DIGITAL_OCEAN_SPACES, settings)
    assert (config.url, config.endpoint) == ("s3://b", "https://ams3.example")
    assert config.secret_access_key == Secret("key")


def test_gcs() -> None:
    config = _convert(archive.GCS, {"bucketName": "b", "credentials": '{"type":"service_account"}'})
    assert config.url == "gs://b"
    assert config.credentials == Secret('{"type":"service_account"}')


def test_azure() -> None:
    settings = {"containerName": "c", "accountName": "a", "accountKey": "k", "sasToken": "s"}
    config = _convert(archive.AZURE_BLOB, settings)
    assert (config.url, config.account_name) == ("az://c", "a")
    assert (config.account_key, config.sas_token) == (Secret("k"), Secret(""))
    sas = _convert(archive.AZURE_BLOB, {**settings, "useSASTokens": True})
    assert (sas.account_key, sas.sas_token) == (Secret(""), Secret("s"))


@pytest.mark.parametrize(
    "spec",
    [archive.SPEC, archive.S3, archive.MINIO, archive.GCS, archive.AZURE_BLOB, archive.DIGITAL_OCEAN_SPACES],
)
def test_specs(spec: DestinationSpec) -> None:
    assert spec.kind == "files"
    assert spec.mapper is None


def test_secrets_do_not_show() -> None:
    config = Config(access_key_id=Secret("id-1"), secret_access_key=Secret("s-1"), credentials=Secret("c-1"))
    assert not any(secret in repr(config) for secret in ("id-1", "s-1", "c-1"))
