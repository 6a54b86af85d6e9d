"""The version, as the library names itself in events and to servers; the same as in pyproject.toml (tested)."""

from __future__ import annotations

VERSION = "0.1.0"
