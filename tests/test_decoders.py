"""Who catches one error of a decoder catches all of them.

Decoders of JSON, MessagePack and TOML raise an error of their library for a wrong
character, RecursionError for a value that is nested deep, and UnicodeError for bytes
that are not text.  A handler for the first alone lets a file or message of another
process end the task, or the process, that reads it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.core.decoding import UNREADABLE

ROOT = Path(__file__).parents[1]
_TUPLES = {"UNREADABLE", "BAD_JSON"}
"""Names of tuples that have all errors of a decoder."""
_OF_DECODERS = {
    "msgspec.DecodeError",
    "msgspec.MsgspecError",
    "json.JSONDecodeError",
    "JSONDecodeError",
    "tomllib.TOMLDecodeError",
    "TOMLDecodeError",
}
_DECODERS = {
    "msgspec.json.decode",
    "msgspec.msgpack.decode",
    "msgspec.toml.decode",
    "json.load",
    "json.loads",
    "tomllib.load",
    "tomllib.loads",
}
_ALL = {"Exception", "BaseException"}
_NOT_TEXT = {"UnicodeError", "ValueError"} | _ALL
_SOME_NOT_TEXT = {"UnicodeDecodeError", "UnicodeEncodeError"}
_TOO_DEEP = {"RecursionError", "RuntimeError"} | _ALL


def _named(node: ast.expr | None) -> set[str]:
    """Return the names of the exceptions that a handler's expression lists."""
    match node:
        case None:
            return {"BaseException"}
        case ast.Tuple(elts=parts):
            return set().union(*map(_named, parts))
        case ast.Starred(value=value):
            return _named(value)
    name = ast.unparse(node)
    if name.rpartition(".")[2] in _TUPLES:
        return {"msgspec.DecodeError", "UnicodeError", "RecursionError"}
    return {name}


def _handlers(node: ast.AST) -> set[str]:
    """Return what a ``try`` or a ``with suppress(…)`` catches."""
    match node:
        case ast.Try(handlers=handlers):
            return set().union(*(_named(one.type) for one in handlers))
        case ast.With(items=items) | ast.AsyncWith(items=items):
            return set().union(
                *(
                    _named(word)
                    for item in items
                    if isinstance(item.context_expr, ast.Call)
                    and ast.unparse(item.context_expr.func).endswith("suppress")
                    for word in item.context_expr.args
                )
            )
    return set()


def incomplete(source: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line and caught errors of the handlers that lack an error of their decoder."""
    for node in ast.walk(ast.parse(source)):
        caught = _handlers(node)
        if not caught:
            continue
        body = node.body if isinstance(node, ast.Try | ast.With | ast.AsyncWith) else []
        decodes = any(
            isinstance(part, ast.Call) and ast.unparse(part.func) in _DECODERS
            for statement in body
            for part in ast.walk(statement)
        )
        of_text = caught & (_NOT_TEXT | _SOME_NOT_TEXT)
        if not (caught & _OF_DECODERS or (decodes and of_text)):
            continue
        if not (caught & _NOT_TEXT and caught & _TOO_DEEP):
            yield node.lineno, sorted(caught)


def _sources() -> list[Path]:
    return sorted(
        path
        for folder in ("broker", "policy", "shims", "fuzz")
        for path in (ROOT / folder).rglob("*.py")
    )


def test_no_handler_lacks_an_error_of_its_decoder() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: catches {', '.join(caught)} only"
        for path in _sources()
        for line, caught in incomplete(path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "handler",
    [
        "except msgspec.DecodeError:",
        "except (msgspec.DecodeError, UnicodeDecodeError):",
        "except (OSError, msgspec.MsgspecError):",
        "except ValueError:",
        "except (json.JSONDecodeError, RecursionError):",
    ],
)
def test_a_handler_that_lacks_one_is_found(handler: str) -> None:
    assert [*incomplete(f"try:\n json.loads(x)\n{handler}\n pass\n")]


def test_a_suppression_that_lacks_one_is_found() -> None:
    assert [*incomplete("with suppress(msgspec.DecodeError):\n decode(x)\n")]


@pytest.mark.parametrize(
    "handler",
    [
        "except UNREADABLE:",
        "except (OSError, *UNREADABLE):",
        "except (ValueError, RecursionError):",
        "except Exception:",
        "except OSError:",  # what decodes raises to a caller, who is looked at
    ],
)
def test_a_whole_handler_is_not_found(handler: str) -> None:
    assert not [*incomplete(f"try:\n json.loads(x)\n{handler}\n pass\n")]


@pytest.mark.parametrize(
    "error",
    [
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "half a pair"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "not UTF-8"),
        RecursionError(),
    ],
)
def test_the_tuple_has_all(error: Exception) -> None:
    assert isinstance(error, UNREADABLE)


def test_a_pattern_of_a_message_ends_with_the_text():
    """``$`` matches before an end of line, too: a name with one passed."""
    for path in ROOT.glob("broker/**/*.py"):
        assert not re.search(r'pattern=r?"[^"]*\$"', path.read_text()), path
