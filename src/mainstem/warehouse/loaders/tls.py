"""Encryption of connections to servers, in libpq's words (`sslMode`), which RudderStack's settings have too."""

import ssl
import tempfile
from typing import Literal

from mainstem.secret import Secret
from mainstem.warehouse.loader import WarehouseError

TlsMode = Literal["require", "verify-ca", "verify-full"]


def client_context(
    mode: str, *, server_ca: str = "", client_certificate: str = "", client_key: Secret | None = None
) -> ssl.SSLContext:
    """Return how to encrypt.

    Args:
        mode: require (whoever the server is), verify-ca (its certificate is checked), verify-full (its name too).
        server_ca: PEM; empty = the machine's.
        client_certificate: PEM, with its key.

    Raises:
        WarehouseError: a certificate is none.
    """
    context = ssl.create_default_context()
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_NONE if mode == "require" else ssl.CERT_REQUIRED
    try:
        if server_ca:
            context.load_verify_locations(cadata=server_ca)
        if client_certificate:
            # OpenSSL reads chains from files only; ours is there for as long as that takes, for our eyes only.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                key = client_key.reveal().strip() if client_key else ""
                file.write(f"{client_certificate.strip()}\n{key}\n")
                file.flush()
                context.load_cert_chain(file.name)
    except (ssl.SSLError, ValueError) as error:
        raise WarehouseError(
            "`serverCA`, `clientCert` and `clientKey` have to be PEM texts that fit together"
        ) from error
    return context
