"""HTTP for transformations: `requests`, `fetch` and `fetchV2`, all by asking the parent, which decides and sends.

There is no network in the jail. The part of the public API of `requests` that transformations use is here: the verbs,
`request`, `Session` (headers, params, auth; no cookies, no adapters that do anything), `Response`, the exceptions.
`timeout` is accepted; the parent's own limits hold. Reference: https://requests.readthedocs.io/en/latest/api/
"""

import base64
import json as real_json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from types import ModuleType
from typing import Any, Final, NoReturn

import msgspec

Fetch = Callable[[dict[str, Any]], dict[str, Any]]
"""From `{url, method, headers, body}` to `{url, status, headers, body}`, bodies as text. Raises `FetchFailed`."""


class FetchFailed(Exception):
    """No answer came, or asking is not allowed; the text says why."""


class RequestException(OSError):
    """The request failed. `response` is what came, if anything."""

    def __init__(self, *args: Any, response: "Response | None" = None, request: Any = None) -> None:
        super().__init__(*args)
        self.response = response
        self.request = request


class HTTPError(RequestException):
    """The answer's status says that it failed."""


class ConnectionError(RequestException):  # noqa: A001 - requests calls it so
    """No answer came."""


class Timeout(RequestException):
    """No answer came in time."""


class ConnectTimeout(ConnectionError, Timeout):
    """No connection in time."""


class ReadTimeout(Timeout):
    """Connected, but no answer in time."""


class InvalidURL(RequestException, ValueError):
    """The URL can't be used."""


class MissingSchema(RequestException, ValueError):
    """The URL has no http or https."""


class TooManyRedirects(RequestException):
    """The answer led on and on."""


class JSONDecodeError(RequestException, real_json.JSONDecodeError):
    """The answer is not JSON."""

    def __init__(self, error: real_json.JSONDecodeError) -> None:
        real_json.JSONDecodeError.__init__(self, error.msg, error.doc, error.pos)
        self.response = None
        self.request = None


class Headers(dict[str, str]):
    """Header fields, found whatever their letters' case."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(fields)
        self._names = {name.lower(): name for name in self}

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(self._names[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._names

    def __setitem__(self, name: str, value: str) -> None:
        super().__setitem__(self._names.setdefault(name.lower(), name), value)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field, or `default`."""
        return super().get(self._names.get(name.lower(), name), default)

    def setdefault(self, name: str, default: str = "") -> str:
        """Return the field; set it first when it isn't there."""
        if name not in self:
            self[name] = default
        return self[name]


class Response:
    """What came back."""

    def __init__(self, answer: Mapping[str, Any], method: str) -> None:
        self.status_code = int(answer["status"])
        self.url = str(answer.get("url", ""))
        self.headers = Headers((str(k), str(v)) for k, v in (answer.get("headers") or {}).items())
        self.text = str(answer.get("body") or "")
        self.encoding = "utf-8"
        self.cookies: dict[str, str] = {}
        self.history: list[Response] = []
        self.request = ModuleType("request")
        vars(self.request).update(method=method, url=self.url)

    @property
    def content(self) -> bytes:
        """The body as UTF-8."""
        return self.text.encode("utf-8", "surrogatepass")

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status_code < 400

    @property
    def reason(self) -> str:
        """The status in words."""
        try:
            return HTTPStatus(self.status_code).phrase
        except ValueError:
            return ""

    def json(self, **kwargs: Any) -> Any:
        """Return the body read as JSON.

        Raises:
            JSONDecodeError: it is none.
        """
        try:
            return real_json.loads(self.text, **kwargs)
        except real_json.JSONDecodeError as error:
            raise JSONDecodeError(error) from None

    def raise_for_status(self) -> None:
        """Raise `HTTPError` when the status is 400 or above."""
        if not self.ok:
            side = "Client" if self.status_code < 500 else "Server"
            raise HTTPError(
                f"{self.status_code} {side} Error: {self.reason} for url: {self.url}", response=self
            )

    def iter_lines(self) -> Iterator[bytes]:
        """Give the body's lines."""
        yield from self.content.splitlines()

    def close(self) -> None:
        """Do nothing; the body is here."""

    def __bool__(self) -> bool:
        return self.ok

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Response [{self.status_code}]>"


class HTTPBasicAuth:
    """Name and password."""

    def __init__(self, username: str, password: str) -> None:
        self.username = username
        self.password = password


class HTTPAdapter:
    """Accepted by `Session.mount`, without effect: the parent owns the connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


def modules(fetch: Fetch) -> dict[str, ModuleType]:
    """Return `requests` and its submodules by name."""

    class Session:
        """Headers, parameters and name with password that all its requests have."""

        def __init__(self) -> None:
            self.headers: dict[str, str] = {}
            self.params: Any = {}
            self.auth: Any = None
            self.verify = True
            self.cookies: dict[str, str] = {}

        def request(
            self,
            method: str,
            url: str,
            params: Any = None,
            data: Any = None,
            headers: Mapping[str, Any] | None = None,
            cookies: Any = None,
            files: Any = None,
            auth: Any = None,
            timeout: Any = None,
            allow_redirects: bool = True,
            proxies: Any = None,
            hooks: Any = None,
            stream: Any = None,
            verify: Any = None,
            cert: Any = None,
            json: Any = None,
        ) -> Response:
            if files or cert or proxies or cookies:
                raise RequestException("files, cert, proxies and cookies don't work here")
            fields = Headers(
                (str(k), str(v)) for k, v in {**self.headers, **(headers or {})}.items() if v is not None
            )
            verb = method.upper()
            asked = {
                "url": _with_params(_with_params(url, self.params), params),
                "method": verb,
                "body": _body(data, json, fields),
                "headers": _authorized(dict(fields), self.auth if auth is None else auth),
            }
            try:
                return Response(fetch(asked), verb)
            except FetchFailed as error:
                kind = Timeout if _TIMEOUT.search(str(error)) else ConnectionError
                raise kind(str(error)) from None

        def get(self, url: str, **kwargs: Any) -> Response:
            return self.request("GET", url, **kwargs)

        def options(self, url: str, **kwargs: Any) -> Response:
            return self.request("OPTIONS", url, **kwargs)

        def head(self, url: str, **kwargs: Any) -> Response:
            return self.request("HEAD", url, **kwargs)

        def post(self, url: str, data: Any = None, json: Any = None, **kwargs: Any) -> Response:
            return self.request("POST", url, data=data, json=json, **kwargs)

        def put(self, url: str, data: Any = None, **kwargs: Any) -> Response:
            return self.request("PUT", url, data=data, **kwargs)

        def patch(self, url: str, data: Any = None, **kwargs: Any) -> Response:
            return self.request("PATCH", url, data=data, **kwargs)

        def delete(self, url: str, **kwargs: Any) -> Response:
            return self.request("DELETE", url, **kwargs)

        def mount(self, prefix: str, adapter: Any) -> None:
            """Do nothing; see `HTTPAdapter`."""

        def close(self) -> None:
            """Do nothing; nothing is open."""

        def __enter__(self) -> "Session":
            return self

        def __exit__(self, *exc: object) -> None:
            self.close()

    def request(method: str, url: str, **kwargs: Any) -> Response:
        return Session().request(method, url, **kwargs)

    def get(url: str, params: Any = None, **kwargs: Any) -> Response:
        return Session().get(url, params=params, **kwargs)

    def post(url: str, data: Any = None, json: Any = None, **kwargs: Any) -> Response:
        return Session().post(url, data, json, **kwargs)

    def put(url: str, data: Any = None, **kwargs: Any) -> Response:
        return Session().put(url, data, **kwargs)

    def patch(url: str, data: Any = None, **kwargs: Any) -> Response:
        return Session().patch(url, data, **kwargs)

    def delete(url: str, **kwargs: Any) -> Response:
        return Session().delete(url, **kwargs)

    def head(url: str, **kwargs: Any) -> Response:
        return Session().head(url, **kwargs)

    def options(url: str, **kwargs: Any) -> Response:
        return Session().options(url, **kwargs)

    verbs = {each.__name__: each for each in (request, get, post, put, patch, delete, head, options)}
    exceptions = {each.__name__: each for each in _EXCEPTIONS}
    parts: dict[str, dict[str, Any]] = {
        "api": verbs,
        "exceptions": exceptions,
        "sessions": {"Session": Session, "session": Session},
        "auth": {"HTTPBasicAuth": HTTPBasicAuth},
        "adapters": {"HTTPAdapter": HTTPAdapter},
        "models": {"Response": Response},
        "structures": {"CaseInsensitiveDict": Headers},
        "utils": {"quote": urllib.parse.quote, "unquote": urllib.parse.unquote},
    }
    made = {f"requests.{name}": _module(f"requests.{name}", members) for name, members in parts.items()}
    top = {
        **{name.partition(".")[2]: module for name, module in made.items()},
        **verbs,
        **{name: each for name, each in exceptions.items() if name != "InvalidURL"},
        "Session": Session,
        "session": Session,
        "Response": Response,
        "codes": _module("codes", {status.name.lower(): status.value for status in HTTPStatus}),
    }
    return {"requests": _module("requests", top), **made}


def fetch_functions(fetch: Fetch) -> dict[str, Any]:
    """Return RudderStack's `fetch` and `fetchV2`, as functions that return when the answer is there."""

    def fetch_v2(url: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        options = options or {}
        fields = Headers((str(k), str(v)) for k, v in (options.get("headers") or {}).items())
        body = options.get("body")
        as_json = body if isinstance(body, dict | list) else None
        text = _body(None if as_json is not None else body, as_json, fields)
        method = str(options.get("method") or "GET").upper()
        answer = fetch({"url": str(url), "method": method, "headers": dict(fields), "body": text})
        read = {name: answer.get(name) for name in ("url", "status", "headers", "body")}
        with suppress(ValueError, TypeError):
            read["body"] = real_json.loads(answer["body"])
        return read

    def fetch_json(url: str, options: Mapping[str, Any] | None = None) -> Any:
        try:
            body = fetch_v2(url, options)["body"]
        except FetchFailed:
            return "ERROR"
        return "ERROR" if isinstance(body, str) else body

    return {"fetch": fetch_json, "fetchV2": fetch_v2}


_EXCEPTIONS: Final = (
    RequestException,
    HTTPError,
    ConnectionError,
    Timeout,
    ConnectTimeout,
    ReadTimeout,
    InvalidURL,
    MissingSchema,
    TooManyRedirects,
    JSONDecodeError,
)
_TIMEOUT: Final = re.compile(r"time|took", re.IGNORECASE)


def _with_params(url: str, params: Any) -> str:
    if not isinstance(url, str) or "://" not in url:
        _no_schema(url)
    if not params:
        return url
    if isinstance(params, bytes):
        query = params.decode()
    elif isinstance(params, str):
        query = params
    else:
        pairs = params.items() if isinstance(params, Mapping) else params
        query = urllib.parse.urlencode([(k, v) for k, v in pairs if v is not None], doseq=True)
    front, hash_mark, fragment = url.partition("#")
    return f"{front}{'&' if '?' in front else '?'}{query}{hash_mark}{fragment}"


def _no_schema(url: object) -> NoReturn:
    raise MissingSchema(f"Invalid URL {url!r}: No scheme supplied")


def _body(data: Any, json: Any, fields: Headers) -> str | None:
    if data:
        if isinstance(data, str):
            return data
        if isinstance(data, bytes):
            try:
                return data.decode()
            except UnicodeDecodeError:
                raise RequestException(
                    "a body must be text: bytes that are not UTF-8 can't be sent"
                ) from None
        fields.setdefault("Content-Type", "application/x-www-form-urlencoded")
        return urllib.parse.urlencode(list(data.items() if isinstance(data, Mapping) else data), doseq=True)
    if json is not None:
        fields.setdefault("Content-Type", "application/json")
        return msgspec.json.encode(json).decode()
    return None


def _authorized(fields: dict[str, str], auth: Any) -> dict[str, str]:
    if auth is None:
        return fields
    name, password = (auth.username, auth.password) if isinstance(auth, HTTPBasicAuth) else auth
    return {**fields, "Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def _module(name: str, members: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(members)
    return module
