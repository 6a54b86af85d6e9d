"""A connection to Snowflake, over the vendor's driver, which is imported when the first one is opened.

loader `snowflake` -> **this** -> snowflake-connector-python -> Snowflake. Parameters are bound by the server (`?`).
What goes wrong is a `SnowflakeError` with Snowflake's own code, without the values of events.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from mainstem.secret import Secret
from mainstem.warehouse.loader import WarehouseError

_LOGIN_TIMEOUT_S: Final = 60
_STATEMENT_TIMEOUT_S: Final = 3600
_LOCK_TIMEOUT_S: Final = 900
_REQUEST_TIMEOUT_S: Final = 120
_PEM: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----(.*?)-----END \1-----", re.DOTALL)
_QUOTED: Final = re.compile(r"'(?:[^']|'')*'")
_DATA: Final = "22"
"""In this class of errors Snowflake repeats the value: that is payload, and stays out of what is logged."""
_MOST_CHARACTERS: Final = 500

SESSION: Final[Mapping[str, Any]] = {
    # A column of times without a zone takes the file's, which are in UTC.
    "TIMEZONE": "UTC",
    # A statement whose transaction is gone must not be committed by itself (see `SnowflakeLoader.transaction`).
    "AUTOCOMMIT": False,
    # With it, "a" and "A" would be one column.
    "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
    "MULTI_STATEMENT_COUNT": 1,
    "ERROR_ON_NONDETERMINISTIC_MERGE": True,
    "STATEMENT_TIMEOUT_IN_SECONDS": _STATEMENT_TIMEOUT_S,
    "LOCK_TIMEOUT": _LOCK_TIMEOUT_S,
    # What runs for a client that is gone is ended.
    "ABORT_DETACHED_QUERY": True,
}
"""Parameters of every session, whatever the account's or user's are.
https://docs.snowflake.com/en/sql-reference/parameters"""


class SnowflakeError(WarehouseError):
    """Snowflake refused or can't be reached.

    Attributes:
        code: Snowflake's, 2003 for instance; negative if it said nothing.
        sqlstate: SQL's, empty if it said nothing.
    """

    def __init__(self, text: str, code: int = -1, sqlstate: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.sqlstate = sqlstate


class SnowflakeWire:
    """One session. Blocking; one thread at a time."""

    def __init__(self, options: Mapping[str, Any], *, query_tag: str) -> None:
        """Connect.

        Args:
            options: of the driver: account, user, database …
            query_tag: stands beside every statement in Snowflake's history.

        Raises:
            SnowflakeError: it can't be reached, or does not let us in.
            WarehouseError: the driver is not installed.
        """
        try:
            import snowflake.connector as driver
        except ImportError as error:
            raise WarehouseError(
                f"Snowflake needs snowflake-connector-python ({error.name} is missing):"
                " pip install 'mainstem[snowflake]'"
            ) from error
        self._error = driver.errors.Error
        try:
            self._connection = driver.connect(
                paramstyle="qmark",
                login_timeout=_LOGIN_TIMEOUT_S,
                query_timeout=_STATEMENT_TIMEOUT_S + _REQUEST_TIMEOUT_S,
                request_timeout=_REQUEST_TIMEOUT_S,
                session_parameters={**SESSION, "QUERY_TAG": query_tag},
                # Closing ends the session: nothing of ours runs on in it.
                server_session_keep_alive=False,
                enable_server_session_keep_alive_auto_detection=False,
                # No token of ours is kept in the machine's keyring.
                client_store_temporary_credential=False,
                **options,
            )
        except self._error as error:
            raise error_of(error) from error

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        """Run a statement, `?` for parameters, and return its rows: also those that count what it did.

        Raises:
            SnowflakeError: it failed.
        """
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, tuple(parameters) or None)
                return list(cursor.fetchall()) if cursor.description else []
        except self._error as error:
            raise error_of(error) from error

    def close(self) -> None:
        """End the session; an open transaction is rolled back."""
        try:
            self._connection.close()
        except self._error:
            # It can't be reached: Snowflake ends the session itself.
            return


def error_of(error: Any) -> SnowflakeError:
    """Return a driver's error as ours."""
    code = error.errno if isinstance(error.errno, int) else -1
    state = str(error.sqlstate or "")
    words = " ".join(str(error.raw_msg or type(error).__name__).split())
    if state.startswith(_DATA):
        words = _QUOTED.sub("'…'", words)
    return SnowflakeError(words[:_MOST_CHARACTERS], code, state)


def key_of(private_key: Secret, passphrase: Secret) -> bytes:
    """Return a private key in PEM as the driver takes it (PKCS #8, DER, not encrypted).

    Lines that have become one, or are separated by a written `\\n`, as they are after a way through a form or an
    environment variable, are put right; so is a key without its first and last line.

    Raises:
        WarehouseError: it is none, or the passphrase is wrong. Nothing of either is in the message.
    """
    text = private_key.reveal().replace("\\n", "\n")
    found = _PEM.search(text)
    label = "ENCRYPTED PRIVATE KEY" if passphrase else "PRIVATE KEY"
    label, body = found.groups() if found else (label, text)
    lines = "\n".join(textwrap.wrap("".join(body.split()), 64))
    pem = f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"
    try:
        key = load_pem_private_key(pem.encode(), passphrase.reveal().encode() or None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise WarehouseError(
            "`privateKey` has to be a private key in PEM (PKCS #8), and `privateKeyPassphrase` its passphrase if it"
            " has one: openssl genrsa 2048 | openssl pkcs8 -topk8 -inform PEM -out key.p8"
        ) from None
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
