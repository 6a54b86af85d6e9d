"""Content-Encoding, undone with a bound: a gzip bomb stops at the first byte too many.

Decoders are asked for at most `max_bytes + 1` bytes, so memory stays bounded whatever the compression ratio.
"""

import gzip
import io
import zlib
from typing import Final

import brotli
import msgspec
import zstandard

_STEP_BYTES: Final = 256 * 1024
_MAX_CODINGS: Final = 3


class BodyProblem(msgspec.Struct, frozen=True):
    """Why a body can't be read."""

    status: int
    code: str
    message: str


_TOO_LARGE: Final = BodyProblem(413, "request_too_large", "request size exceeds max limit")


def decode_body(body: bytes, encoding: bytes, max_bytes: int) -> bytes | BodyProblem:
    """Return the body without its content codings.

    Some clients and proxies name a coding that they did not apply: a body that says gzip and begins like
    JSON is taken as it is.
    """
    codings = [coding.strip().lower() for coding in encoding.split(b",")]
    codings = [coding for coding in codings if coding not in (b"", b"identity")]
    if len(codings) > _MAX_CODINGS:
        return BodyProblem(400, "bad_encoding", f"more than {_MAX_CODINGS} content codings")
    for coding in reversed(codings):
        if not body:
            return body
        decode = _DECODERS.get(coding)
        if decode is None:
            name = coding.decode("latin-1")[:40]
            return BodyProblem(
                400,
                "unknown_encoding",
                f"Content-Encoding {name!r} is not known: use gzip, deflate, br or zstd",
            )
        if body[:1] in b"{[" and coding in (b"gzip", b"x-gzip", b"zstd"):
            continue
        try:
            decoded = decode(body, max_bytes)
        except (zlib.error, EOFError, OSError, brotli.error, zstandard.ZstdError) as problem:
            name = coding.decode("latin-1")
            return BodyProblem(400, "bad_encoding", f"the body is not valid {name}: {problem}"[:200])
        if len(decoded) > max_bytes:
            return _TOO_LARGE
        body = decoded
    return body


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    unzip = zlib.decompressobj(wbits=31)
    out = unzip.decompress(body, max_bytes + 1)
    if unzip.eof and not unzip.unused_data.rstrip(b"\0"):
        return out
    if not unzip.eof and len(out) <= max_bytes:
        raise EOFError("it ends too early")
    if len(out) > max_bytes:
        return out
    # Several members: rare, so the slower reader does it.
    with gzip.GzipFile(fileobj=io.BytesIO(body)) as members:
        return members.read(max_bytes + 1)


def _inflate(body: bytes, max_bytes: int) -> bytes:
    # "deflate" is zlib (RFC 9110 §8.4.1.2); some clients send it raw.
    try:
        return _inflate_as(zlib.MAX_WBITS, body, max_bytes)
    except zlib.error:
        return _inflate_as(-zlib.MAX_WBITS, body, max_bytes)


def _inflate_as(wbits: int, body: bytes, max_bytes: int) -> bytes:
    inflate = zlib.decompressobj(wbits=wbits)
    out = inflate.decompress(body, max_bytes + 1)
    if not inflate.eof and len(out) <= max_bytes:
        raise EOFError("it ends too early")
    return out


def _unbrotli(body: bytes, max_bytes: int) -> bytes:
    decoder = brotli.Decompressor()
    out: list[bytes] = []
    size = 0
    data = body
    while not decoder.is_finished():
        piece = decoder.process(data, output_buffer_limit=_STEP_BYTES)
        data = b""
        size += len(piece)
        out.append(piece)
        if size > max_bytes:
            break
        if not piece and decoder.can_accept_more_data():
            raise EOFError("it ends too early")
    return b"".join(out)


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    # The window is bounded as well: a frame may ask for gigabytes (RFC 9659 says 8 MiB for HTTP).
    decoder = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024)
    with decoder.stream_reader(body, read_across_frames=True) as reader:
        return reader.read(max_bytes + 1)


_DECODERS: Final = {
    b"gzip": _gunzip,
    b"x-gzip": _gunzip,
    b"deflate": _inflate,
    b"br": _unbrotli,
    b"zstd": _unzstd,
}
