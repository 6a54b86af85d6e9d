"""Writes a small IPv4 MaxMind DB file, as its specification says: https://maxmind.github.io/MaxMind-DB/."""

import struct
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

_MAP, _TEXT, _DOUBLE, _UINT16, _UINT32, _UINT64, _ARRAY = 7, 2, 3, 5, 6, 9, 11


def write_mmdb(path: Path, networks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the records of some networks (they must not overlap)."""
    nodes: list[list[int | None]] = [[None, None]]
    data = bytearray()
    pointers: dict[tuple[int, int], int] = {}
    for text, record in networks.items():
        network = IPv4Network(text)
        bits = [int(network.network_address) >> (31 - at) & 1 for at in range(network.prefixlen)]
        at = 0
        for bit in bits[:-1]:
            below = nodes[at][bit]
            if below is None:
                nodes.append([None, None])
                below = nodes[at][bit] = len(nodes) - 1
            at = below
        pointers[at, bits[-1]] = len(data)
        data += _encoded(record)
    count = len(nodes)
    tree = bytearray()
    for index, node in enumerate(nodes):
        for bit, below in enumerate(node):
            pointer = pointers.get((index, bit))
            value = count + 16 + pointer if pointer is not None else below if below is not None else count
            tree += value.to_bytes(3, "big")
    metadata = {
        "binary_format_major_version": (_UINT16, 2),
        "binary_format_minor_version": (_UINT16, 0),
        "build_epoch": (_UINT64, 1_767_225_600),
        "database_type": "Test-City",
        "description": {"en": "test"},
        "ip_version": (_UINT16, 4),
        "languages": ["en"],
        "node_count": (_UINT32, count),
        "record_size": (_UINT16, 24),
    }
    path.write_bytes(bytes(tree) + bytes(16) + bytes(data) + b"\xab\xcd\xefMaxMind.com" + _encoded(metadata))
    return path


def _control(kind: int, size: int) -> bytes:
    assert size < 285
    head, rest = (size, b"") if size < 29 else (29, bytes((size - 29,)))
    return (bytes((kind << 5 | head,)) if kind <= 7 else bytes((head, kind - 7))) + rest


def _encoded(value: Any) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return _control(_TEXT, len(text)) + text
    if isinstance(value, float):
        return _control(_DOUBLE, 8) + struct.pack(">d", value)
    if isinstance(value, tuple):
        kind, number = value
        digits: bytes = number.to_bytes((number.bit_length() + 7) // 8, "big")
        return _control(kind, len(digits)) + digits
    if isinstance(value, list):
        return _control(_ARRAY, len(value)) + b"".join(map(_encoded, value))
    return _control(_MAP, len(value)) + b"".join(
        _encoded(key) + _encoded(item) for key, item in value.items()
    )
