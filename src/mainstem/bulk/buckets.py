"""Buckets of S3, Google Cloud Storage and Azure, opened through obstore by the settings of whoever writes there."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, Protocol

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from mainstem.bulk.errors import ErrorOf
from mainstem.secret import Secret

_CLIENT: Final[dict[str, Any]] = {"connect_timeout": "10s", "timeout": "120s"}
# Short: who writes has a back-off of its own, which can be interrupted; this only rides over a hiccup.
_RETRY: Final[dict[str, Any]] = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}


class BucketSettings(Protocol):
    """How a bucket of S3 or Azure is reached. Structs can't inherit from two others, so each type has these fields."""

    @property
    def endpoint(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def path_style(self) -> bool: ...
    @property
    def server_side_encryption(self) -> str: ...
    @property
    def role_arn(self) -> str: ...
    @property
    def access_key_id(self) -> Secret: ...
    @property
    def secret_access_key(self) -> Secret: ...
    @property
    def session_token(self) -> Secret: ...
    @property
    def account_name(self) -> str: ...
    @property
    def account_key(self) -> Secret: ...
    @property
    def sas_token(self) -> Secret: ...


class AnyBucketSettings(BucketSettings, Protocol):
    """And one of Google Cloud Storage."""

    @property
    def credentials(self) -> Secret: ...


def open_bucket(settings: AnyBucketSettings, scheme: str, name: str, path: str) -> Any:
    """Return obstore's store of a URL's parts: `scheme://name/path`.

    Raises:
        ValueError: there is no such scheme.
        BaseError: settings are malformed.
    """
    options: dict[str, Any] = {
        "client_options": {**_CLIENT, "allow_http": settings.endpoint.startswith("http://")},
        "retry_config": _RETRY,
        "prefix": path.strip("/") or None,
    }
    match scheme:
        case "s3":
            config = {
                "endpoint": settings.endpoint,
                "region": settings.region,
                "access_key_id": settings.access_key_id.reveal(),
                "secret_access_key": settings.secret_access_key.reveal(),
                "session_token": settings.session_token.reveal(),
                "role_arn": settings.role_arn,
                "server_side_encryption": settings.server_side_encryption,
                "virtual_hosted_style_request": "false" if settings.path_style else "true",
            }
            return S3Store(name, config=_given(config), **options)
        case "gs":
            config = {
                "service_account_key": settings.credentials.reveal(),
                "base_url": settings.endpoint,
            }
            return GCSStore(name, config=_given(config), **options)
        case "az":
            config = {
                "account_name": settings.account_name,
                "account_key": settings.account_key.reveal(),
                "sas_key": settings.sas_token.reveal(),
                "endpoint": settings.endpoint,
            }
            return AzureStore(name, config=_given(config), **options)
        case _:
            raise ValueError(f"url: unknown scheme {scheme!r}; use a path, s3://, gs:// or az://")


def _given(settings: dict[str, str]) -> Any:
    return {key: text for key, text in settings.items() if text}


@contextmanager
def mapped(what: str, error: ErrorOf) -> Iterator[None]:
    """Tell what failed, in a bucket or a folder, as the error of whoever uses it."""
    try:
        yield
    except (BaseError, OSError, ValueError) as trouble:
        words = str(trouble).splitlines()[0][:300] if str(trouble) else ""
        raise error(f"{what}: {type(trouble).__name__}: {words}") from trouble
