"""Encryption in front of a server that was built without: a Postgres server's answer to SSLRequest, then TLS."""

import contextlib
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

import trustme


class TlsFront:
    """Listens on a free loopback port and passes what it decrypts on."""

    def __init__(self, to: int, certificate: trustme.LeafCert, authority: trustme.CA) -> None:
        self._to = to
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        authority.configure_trust(self._context)
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.clients: list[bool] = []
        """For each connection, whether it showed a certificate."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(8)
            client.sendall(b"S")
            with (
                self._context.wrap_socket(client, server_side=True) as secure,
                socket.create_connection(("127.0.0.1", self._to)) as plain,
            ):
                self.clients.append(bool(secure.getpeercert()))
                back = threading.Thread(target=_pass, args=(plain, secure), daemon=True)
                back.start()
                _pass(secure, plain)
                back.join(5)


def _pass(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
