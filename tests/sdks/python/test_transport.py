"""The way to the server: TLS, proxies, addresses, and what happens when it is not there."""

import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from mainstem_analytics.transport import Abandoned, Endpoint, Transport, TransportFailed
from tests.sdks.python.collector import Collector, Reply

BODY = b'{"batch":[{"messageId":"m"}]}'


def transport(url: str, **settings: object) -> Transport:
    defaults = {"timeout_s": 5.0, "meanwhile": lambda: None, "proxies": {}}
    return Transport(Endpoint.parse(url), "key", **{**defaults, **settings})  # type: ignore[arg-type]


def take(connection: socket.socket) -> None:
    """Read one request of `BODY`: whoever closes with a part of it unread resets the connection."""
    taken = b""
    while not taken.endswith(BODY) and (more := connection.recv(65536)):
        taken += more


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("https://a.example.com", (True, "a.example.com", 443, "/v1/batch")),
        ("http://a.example.com:8080/", (False, "a.example.com", 8080, "/v1/batch")),
        ("a.example.com", (True, "a.example.com", 443, "/v1/batch")),
        ("https://a.example.com/x/", (True, "a.example.com", 443, "/x/v1/batch")),
        ("https://a.example.com/v1/batch", (True, "a.example.com", 443, "/v1/batch")),
        ("http://[::1]:80", (False, "::1", 80, "/v1/batch")),
    ],
)
def test_addresses(host: str, expected: tuple[object, ...]) -> None:
    found = Endpoint.parse(host)
    assert (found.secure, found.name, found.port, found.path) == expected


@pytest.mark.parametrize("host", ["ftp://a", "https://", "http://a:port"])
def test_no_addresses(host: str) -> None:
    with pytest.raises(ValueError, match=r"address|Port"):
        Endpoint.parse(host)


def test_tls_is_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with Collector(tls=tls) as collector:
        stranger = transport(collector.url)
        with pytest.raises(TransportFailed, match="CERTIFICATE_VERIFY_FAILED"):
            stranger.post(BODY, gzipped=False)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        friend = transport(collector.url)
        for _ in range(3):
            assert friend.post(BODY, gzipped=False).status == 200
        assert {request.connection for request in collector.requests} == {collector.requests[0].connection}
        friend.close()
        elsewhere = transport(collector.url.replace("localhost", "127.0.0.1"))
        with pytest.raises(TransportFailed, match=r"127\.0\.0\.1"):
            elsewhere.post(BODY, gzipped=False)


def test_a_large_body_over_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    body = b'{"batch":[{"messageId":"m","text":"' + b"x" * 3_000_000 + b'"}]}'
    with Collector(tls=tls) as collector:
        client = transport(collector.url)
        assert client.post(body, gzipped=False).status == 200
        assert collector.requests[0].body == body
        client.close()


def test_silence_while_connecting_and_while_waiting_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        slices = []
        quiet = transport(
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            timeout_s=0.15,
            meanwhile=lambda: slices.append(1),
        )
        with pytest.raises(TransportFailed, match="no answer for"):
            quiet.post(BODY, gzipped=False)
        assert len(slices) > 2, "what waits to be stored was seen to meanwhile"


def test_waiting_can_be_given_up() -> None:
    def give_up() -> None:
        raise Abandoned

    with socket.create_server(("127.0.0.1", 0)) as listener:
        quiet = transport(f"http://127.0.0.1:{listener.getsockname()[1]}", meanwhile=give_up)
        with pytest.raises(Abandoned):
            quiet.post(BODY, gzipped=False)


def test_nobody_there(collector: Collector) -> None:
    collector.stop()
    with pytest.raises(TransportFailed, match="refused"):
        transport(collector.url).post(BODY, gzipped=False)


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(TransportFailed, match="gaierror"):
        transport("http://no-such-name.invalid").post(BODY, gzipped=False)


def test_what_is_no_http_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                take(connection)
                connection.sendall(b"SSH-2.0-OpenSSH_9\r\n")

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(TransportFailed, match="BadStatusLine"):
            transport(f"http://127.0.0.1:{listener.getsockname()[1]}").post(BODY, gzipped=False)


def test_an_answer_without_a_length_ends_with_its_connection(collector: Collector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    take(connection)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                    connection.sendall(b'{"success":true}')

        threading.Thread(target=serve, daemon=True).start()
        client = transport(f"http://127.0.0.1:{listener.getsockname()[1]}")
        for _ in range(2):
            answer = client.post(BODY, gzipped=False)
            assert (answer.status, answer.body) == (200, b'{"success":true}')


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that writes down what it was asked; its address, and the requests."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(f"POST {self.path} {self.headers.get('Proxy-Authorization')}")
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def do_CONNECT(self) -> None:
            asked.append(f"CONNECT {self.path} {self.headers.get('Proxy-Authorization')}")
            name, port = self.path.split(":")
            if name == "forbidden":
                self.send_error(403)
                return
            with socket.create_connection((name, int(port))) as there:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pump, args=(there, self.connection), daemon=True)
                back.start()
                _pump(self.connection, there)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)


def test_a_proxy_for_http(proxy: tuple[str, list[str]]) -> None:
    address, asked = proxy
    client = transport("http://events.example.com", proxies={"http": f"http://user:p%40ss@{address}"})
    assert client.post(BODY, gzipped=False).status == 200
    assert asked == ["POST http://events.example.com/v1/batch Basic dXNlcjpwQHNz"]


def test_a_proxy_for_https(
    proxy: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address, asked = proxy
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Collector(lambda _: Reply(), tls=tls) as collector:
        client = transport(collector.url, proxies=f"http://{address}")
        assert client.post(BODY, gzipped=False).status == 200
        assert asked == [f"CONNECT localhost:{collector.port} None"]
        client.close()
    with pytest.raises(TransportFailed, match="403 to CONNECT"):
        transport("https://forbidden", proxies={"https": address}).post(BODY, gzipped=False)
    with pytest.raises(TransportFailed, match="proxy's address"):
        transport("https://a", proxies={"https": "socks5://b"}).post(BODY, gzipped=False)


def test_the_environments_proxies(
    proxy: tuple[str, list[str]], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = proxy
    monkeypatch.setenv("http_proxy", f"http://{address}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for url, expected in ((collector.url, 0), ("http://a.example.com", 1)):
        client = transport(url, proxies=None)
        assert client.post(BODY, gzipped=False).status == 200
        assert len(asked) == expected
        client.close()
    assert asked == ["POST http://a.example.com/v1/batch None"]


def test_the_write_key_is_in_no_repr() -> None:
    client = Transport(Endpoint.parse("http://a"), "secret", timeout_s=1, meanwhile=lambda: None)
    assert "secret" not in repr(client)
