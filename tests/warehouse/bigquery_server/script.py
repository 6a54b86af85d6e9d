"""The parts of GoogleSQL's procedural language that a transaction's script needs.

https://docs.cloud.google.com/bigquery/docs/reference/standard-sql/procedural-language (read 2026-11): DECLARE, SET,
IF … THEN … END IF, RAISE, BEGIN, COMMIT and ROLLBACK TRANSACTION.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlglot.dialects.bigquery import BigQuery
from sqlglot.errors import SqlglotError


class ScriptError(Exception):
    """It is no script."""


@dataclass
class Statement:
    """One statement, as text."""

    kind: str
    """declare, set, if, raise, begin, commit, rollback, sql."""
    text: str = ""
    """The SQL; the expression of declare, set, if and raise."""
    name: str = ""
    """The variable of declare and set."""
    body: list["Statement"] = field(default_factory=list)


def parse(sql: str) -> list[Statement]:
    """Return the statements of a script.

    Raises:
        ScriptError: it can't be read.
    """
    try:
        tokens = list(BigQuery().tokenize(sql))
    except SqlglotError as error:
        raise ScriptError(str(error)) from error
    chunks: list[list[Any]] = [[]]
    for token in tokens:
        if token.token_type.name == "SEMICOLON":
            chunks.append([])
        else:
            chunks[-1].append(token)
    if chunks[-1]:
        last = chunks[-1]
        if any(token.text.upper() == "END" for token in last[:1]):
            raise ScriptError("END IF needs a semicolon")
    statements, rest = _block(sql, [chunk for chunk in chunks if chunk], inner=False)
    if rest:
        raise ScriptError("END IF without IF")
    return statements


def _block(
    sql: str, chunks: Sequence[list[Any]], *, inner: bool
) -> tuple[list[Statement], Sequence[list[Any]]]:
    found: list[Statement] = []
    while chunks:
        chunk, chunks = chunks[0], chunks[1:]
        words = [token.text.upper() for token in chunk]
        if words[:2] == ["END", "IF"]:
            if not inner:
                raise ScriptError("END IF without IF")
            return found, chunks
        if words[0] == "IF":
            if "THEN" not in words:
                raise ScriptError("IF without THEN")
            then = words.index("THEN")
            first = chunk[then + 1 :]
            body, chunks = _block(sql, [first, *chunks] if first else chunks, inner=True)
            found.append(Statement("if", _text(sql, chunk[1:then]), body=body))
        else:
            found.append(_statement(sql, chunk, words))
    if inner:
        raise ScriptError("IF without END IF")
    return found, chunks


def _statement(sql: str, chunk: list[Any], words: list[str]) -> Statement:
    match words:
        case ["BEGIN TRANSACTION"] | ["BEGIN", "TRANSACTION"]:
            return Statement("begin")
        case ["COMMIT", "TRANSACTION"]:
            return Statement("commit")
        case ["ROLLBACK", "TRANSACTION"]:
            return Statement("rollback")
        case ["DECLARE", _, _, "DEFAULT", *_]:
            return Statement("declare", _text(sql, chunk[4:]), chunk[1].text)
        case ["SET", _, "=", *_]:
            return Statement("set", _text(sql, chunk[3:]), chunk[1].text)
        case ["RAISE", "USING", "MESSAGE", "=", *_]:
            return Statement("raise", _text(sql, chunk[4:]))
        case _:
            return Statement("sql", _text(sql, chunk))


def _text(sql: str, tokens: Sequence[Any]) -> str:
    if not tokens:
        raise ScriptError("an expression is missing")
    return sql[tokens[0].start : tokens[-1].end + 1]
