"""`GET /sdk/mainstem.js`: the JavaScript SDK for script tags, as `sdks/javascript/build.mjs` has built it.

Compressed when it was built, so a request costs no time here. Browsers and caches keep it for an hour and then
ask with its ETag; for a day more they may use it while they ask (RFC 5861), so that no page waits for it.
"""

import hashlib
from importlib.resources import files
from typing import Final

from mainstem.gateway.http1 import Answer

_CACHE_CONTROL: Final = "public, max-age=3600, stale-while-revalidate=86400"
_CODINGS: Final = (("br", ".br"), ("gzip", ".gz"), ("", ""))
"""Content codings, the smallest first, and what their files' names end with."""


class SdkScript:
    """The script in each coding, with the answers made beforehand."""

    def __init__(self) -> None:
        folder = files("mainstem.gateway").joinpath("sdk")
        version = hashlib.sha256(folder.joinpath("mainstem.js").read_bytes()).hexdigest()[:20]
        self._whole: dict[str, Answer] = {}
        self._unchanged: dict[str, Answer] = {}
        self._tags: dict[str, bytes] = {}
        for coding, ending in _CODINGS:
            # A tag names bytes: each coding has its own (RFC 9110 §8.8.3.3).
            tag = f'"{version}{"-" + coding if coding else ""}"'
            headers = [
                ("etag", tag),
                ("cache-control", _CACHE_CONTROL),
                ("vary", "Accept-Encoding"),
                ("x-content-type-options", "nosniff"),
                # Pages that isolate themselves (COEP) load only what says that it may be loaded.
                ("cross-origin-resource-policy", "cross-origin"),
            ]
            coded = [("content-encoding", coding)] if coding else []
            body = folder.joinpath(f"mainstem.js{ending}").read_bytes()
            self._whole[coding] = Answer(
                200, body, "text/javascript; charset=utf-8", headers=[*headers, *coded]
            )
            self._unchanged[coding] = Answer(304, headers=headers)
            self._tags[coding] = tag.encode()

    def answer(self, headers: dict[bytes, bytes]) -> Answer:
        """Return the script in the best coding that the client takes, or that it has not changed."""
        coding = _best_coding(headers.get(b"accept-encoding", b""))
        known = headers.get(b"if-none-match")
        if known is not None and _matches(known, self._tags[coding]):
            return self._unchanged[coding]
        return self._whole[coding]


def _best_coding(accepted: bytes) -> str:
    """Return the smallest coding that `Accept-Encoding` names and does not refuse (RFC 9110 §12.5.3)."""
    taken = set()
    for item in accepted.lower().split(b","):
        name, *parameters = (part.strip() for part in item.split(b";"))
        if not any(_refuses(parameter) for parameter in parameters):
            taken.add(name.decode("latin-1"))
    return next((coding for coding, _ in _CODINGS if coding in taken), "")


def _refuses(parameter: bytes) -> bool:
    """Return whether a parameter is `q=0`, however many zeros it has."""
    name, _, weight = parameter.partition(b"=")
    return name.strip() == b"q" and weight.strip().strip(b"0.") == b""


def _matches(known: bytes, tag: bytes) -> bool:
    """Compare weakly, as `If-None-Match` asks (RFC 9110 §13.1.2): proxies that compress make tags weak."""
    tags = {item.strip().removeprefix(b"W/") for item in known.split(b",")}
    return tag in tags or b"*" in tags
