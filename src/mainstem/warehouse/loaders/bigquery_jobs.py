"""Jobs of BigQuery: sent once, waited for, made again where that may help; and its errors in our words.

loader of BigQuery -> **jobs** -> google-cloud-bigquery. Everything that goes through here may be carried out any number
of times (DDL with IF NOT EXISTS, scripts that look whether they are in, loads whose id BigQuery knows), so a job that
failed for a passing reason is simply made again.

Reasons: https://docs.cloud.google.com/bigquery/docs/error-messages. Ids of jobs: a second job with an id that a project
has is refused with 409 (https://docs.cloud.google.com/bigquery/docs/running-jobs#generate-jobid), which is how a
request whose answer was lost is not carried out twice.
"""

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests
from google.api_core.exceptions import Conflict, GoogleAPIError, NotFound, RetryError
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_RETRY
from google.oauth2 import service_account

from mainstem.warehouse.loader import WarehouseError
from mainstem.warehouse.loaders.bigquery import Config

_SCOPES: Final = (
    "https://www.googleapis.com/auth/bigquery",
    "https://www.googleapis.com/auth/cloud-platform",
)
_REQUEST_S: Final = 60.0
_UPLOAD_S: Final = 600.0
_JOB_S: Final = 3600.0
"""How long a job may take; then BigQuery ends it."""
_POLL_S: Final = (0.05, 2.0)
_RETRY: Final[Retry] = DEFAULT_RETRY.with_deadline(_REQUEST_S).with_delay(0.2, 10.0, 2.0)
"""Of one request: lost connections, 429, 5xx. Jobs carry their ids, so sending again is safe."""
_UPLOAD_TRIES: Final = 4
_TRIES: Final = 9
_PAUSE_S: Final = (0.25, 10.0)
"""Between tries of a job: doubles from the first to the second; about half a minute in all."""

_LABELS: Final = {"application": "mainstem"}
_PASSING: Final = frozenset(
    (
        "backendError",
        "internalError",
        "jobBackendError",
        "jobInternalError",
        "rateLimitExceeded",
        "jobRateLimitExceeded",
        "tableUnavailable",
        "resourceInUse",
    )
)
_CONFLICTS: Final = (
    "aborted due to concurrent update",
    "Could not serialize access",
    "Too many DML statements outstanding",
)
"""Words of errors that say: somebody else is at work there."""
_OF_ONE_TABLE: Final = frozenset(
    ["invalid", "invalidQuery", "resourcesExceeded", "responseTooLarge", "duplicate"]
)


class BigqueryError(WarehouseError):
    """What BigQuery answered.

    Attributes:
        reason: its word for it: notFound, invalidQuery, …; "" if it answered nothing.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message + _advice(message, reason))
        self.reason = reason

    @property
    def passing(self) -> bool:
        """Whether the same job may succeed in a moment."""
        return self.reason in _PASSING or any(words in str(self) for words in _CONFLICTS)

    @property
    def of_one_table(self) -> bool:
        """Whether it says something of a table, not of the service or the dataset."""
        if self.passing:
            return False
        about_table = "Table " in str(self) or "table " in str(self)
        return self.reason in _OF_ONE_TABLE or (self.reason in ("notFound", "accessDenied") and about_table)


def _advice(message: str, reason: str) -> str:
    if any(words in message for words in _CONFLICTS):
        return ""
    match reason:
        case "accessDenied":
            return (
                "; grant the service account roles/bigquery.dataEditor on the dataset (or the project) and"
                " roles/bigquery.jobUser on the project"
            )
        case "billingNotEnabled":
            return "; enable billing for the project: without it BigQuery takes no DML"
        case "quotaExceeded":
            return (
                "; the project's quota is used up: load less often (`syncFrequency`), or ask Google for more"
            )
        case "resourcesExceeded":
            return "; load smaller pieces: `syncEvents`, `syncBytes`"
        case "notFound" if "Table" in message or "Dataset" in message:
            return "; somebody dropped it, or it is in another location: the next load makes it again"
        case "invalid" | "invalidQuery" if "partitions" in message:
            return "; take longer partitions (`partitionType`) for new tables, or load shorter spans"
        case _:
            return ""


def error_of(error: BaseException) -> BigqueryError:
    """Return an exception of the driver as ours. Neither requests nor credentials are in its text."""
    if isinstance(error, RetryError) and error.cause is not None:
        return error_of(error.cause)
    if isinstance(error, GoogleAuthError):
        return BigqueryError(f"Google refuses the credentials: {_first_line(error)}; see `credentials`")
    errors = getattr(error, "errors", None) or []
    reason = str(errors[0].get("reason", "")) if errors and isinstance(errors[0], Mapping) else ""
    return BigqueryError(_first_line(error), reason or _reason_of(error))


def _reason_of(error: BaseException) -> str:
    code = getattr(error, "code", None)
    return {400: "invalid", 401: "accessDenied", 403: "accessDenied", 404: "notFound", 409: "duplicate"}.get(
        code if isinstance(code, int) else 0, ""
    )


def _first_line(error: BaseException) -> str:
    words = getattr(error, "message", None) or str(error)
    return str(words).splitlines()[0][:500] if str(words) else type(error).__name__


@contextmanager
def mapped() -> Iterator[None]:
    """Raise what the driver raises as `BigqueryError`."""
    try:
        yield
    except (GoogleAPIError, GoogleAuthError, requests.RequestException, OSError) as error:
        raise error_of(error) from error


def connect(config: Config) -> bigquery.Client:
    """Return a client; only credentials are looked at.

    Raises:
        WarehouseError: there are none, or they are malformed.
    """
    credentials: Credentials | None = None
    if config.credentials:
        try:
            credentials = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
                json.loads(config.credentials.reveal()), scopes=_SCOPES
            )
        except (ValueError, TypeError, AttributeError):
            # What went wrong may quote the key.
            raise WarehouseError("`credentials` has to be a service account's key, the JSON itself") from None
    elif config.endpoint.startswith("http://"):
        credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
    options = {"api_endpoint": config.endpoint} if config.endpoint else None
    with mapped():
        return bigquery.Client(project=config.project, credentials=credentials, client_options=options)


class Jobs:
    """The jobs of one loader."""

    def __init__(
        self, client: bigquery.Client, location: str, *, pause: Callable[[float], None] = time.sleep
    ) -> None:
        """
        Args:
            location: where jobs run; "" lets BigQuery find out from the tables.
            pause: waits for so many seconds.
        """
        self.client = client
        self.location = location
        self._pause = pause
        self._chance = random.Random()  # noqa: S311 - spreads retries

    def run(
        self, sql: str, parameters: Sequence[bigquery.ScalarQueryParameter] = (), *, what: str = "query"
    ) -> list[tuple[Any, ...]]:
        """Run a statement or a script, and return the rows of its last SELECT.

        Raises:
            BigqueryError: it failed, and again, or for good.
        """
        config = bigquery.QueryJobConfig(
            query_parameters=list(parameters),
            use_legacy_sql=False,
            labels={**_LABELS, "step": what},
            job_timeout_ms=int(_JOB_S * 1000),
        )

        def once() -> list[tuple[Any, ...]]:
            job_id = f"mainstem_{what}_{uuid.uuid4().hex}"

            def send() -> Any:
                return self.client.query(
                    sql, config, job_id, location=self.location or None, **_PATIENCE, job_retry=None
                )

            job = self._begun(job_id, send)
            self._wait(job)
            with mapped():
                return [row.values() for row in job.result(**_PATIENCE, job_retry=None)]

        return self._persistently(once)

    def load_file(
        self, path: Path, target: bigquery.Table, job_id: str, *, columns: Sequence[bigquery.SchemaField]
    ) -> None:
        """Put a Parquet file into an empty table; nothing is done if a job of this id did that.

        Raises:
            BigqueryError: it failed; the reason is `duplicate` if the table is not empty.
        """
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=list(columns),
            write_disposition=bigquery.WriteDisposition.WRITE_EMPTY,
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
            # Names beyond letters, digits and underscores, as they are.
            column_name_character_map="V2",
            labels={**_LABELS, "step": "load"},
        )

        def send() -> Any:
            with path.open("rb") as file:
                return self.client.load_table_from_file(
                    file,
                    target,
                    rewind=True,
                    size=path.stat().st_size,
                    num_retries=_UPLOAD_TRIES,
                    job_id=job_id,
                    location=self.location or None,
                    job_config=config,
                    timeout=_UPLOAD_S,
                )

        # Asked first: what is there need not be uploaded to be refused.
        self._wait(self._known(job_id) or self._begun(job_id, send))

    def _known(self, job_id: str) -> Any:
        with mapped():
            try:
                return self.client.get_job(job_id, location=self.location or None, **_PATIENCE)
            except NotFound:
                return None

    def _begun(self, job_id: str, send: Callable[[], Any]) -> Any:
        """Return a job that was sent now, or by a request whose answer was lost."""
        with mapped():
            try:
                return send()
            except Conflict:
                return self.client.get_job(job_id, location=self.location or None, **_PATIENCE)

    def _wait(self, job: Any) -> None:
        """Wait until a job is through.

        Raises:
            BigqueryError: it failed, or takes too long.
        """
        until = time.monotonic() + _JOB_S + _REQUEST_S
        delay, longest = _POLL_S
        while job.state != "DONE":
            if time.monotonic() > until:
                raise BigqueryError(f"job {job.job_id} is not through after {_JOB_S:.0f} s")
            self._pause(delay)
            delay = min(delay * 1.5, longest)
            with mapped():
                job.reload(**_PATIENCE)
        if job.error_result:
            reason, message = job.error_result.get("reason", ""), job.error_result.get("message", "")
            raise BigqueryError(message.splitlines()[0][:500] if message else "it failed", reason)

    def _persistently(self, once: Callable[[], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
        delay, longest = _PAUSE_S
        for _ in range(_TRIES - 1):
            try:
                return once()
            except BigqueryError as error:
                if not error.passing:
                    raise
            self._pause(delay * self._chance.uniform(0.5, 1.5))
            delay = min(delay * 2, longest)
        return once()


_PATIENCE: Final[dict[str, Any]] = {"retry": _RETRY, "timeout": _REQUEST_S}
