"""Turn each guard off in a copy of the project, and see which test fails.

A guard is a check that stops one named attack.  In the source it is marked by a
comment above its statement: ``# guard: NAME``.  A table of this package has a row
with the same name, what the statement ``becomes`` without the guard, and the test
that fails then.  ``python -m tests.kit.guards.TABLE [NAME…]`` tries the rows of one
table; ``make mutate`` tries them all.

The marker finds the statement, not its text: a guard that was moved, renamed or
reformatted is still found, and one whose marker was lost is an error.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import CodeType

import trio

from tests.kit.suite.forks import HUNG

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("broker", "policy", "shims")
_MARK = re.compile(r"# guard: (\S.*)")
_COMMENTS = re.compile(
    r"""(?s)\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}"""
    r"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|(?P<comment>\#[^\n]*)"""
)
"""Strings, and comments outside of them; 'tokenize' takes nine times as long."""
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
_PROBE_SECONDS = 90
"""For the tests of one guard, at most; a hang is noticed, too."""
_HANG_SECONDS, _HANG_TIMES = 10, 3
"""A run without a guard hangs after so long and so many times what it took with it."""
FORKS = "tests/kit/suite/forks.py"
NOTICED = "noticed"
HANGS = "noticed: hangs"


class MarkError(Exception):
    """A marker without its statement, a name twice, or a row that changes nothing."""


@dataclass(frozen=True)
class Guard:
    """A row.  ``test`` is a path, ``word`` a -k expression that selects in it.

    ``becomes`` takes the place of the marked statement (of so many statements in a
    row as ``spans`` says).  Where it ends in a colon it takes the place of the
    statement's head, and the body stays.  Empty, it removes the statement.
    """

    name: str
    becomes: str
    test: str
    word: str = ""
    spans: int = 1


def marks(root: Path = ROOT) -> dict[str, Path]:
    """Files of all marked guards.  Raises MarkError for a name that occurs twice."""
    found: dict[str, Path] = {}
    for path in sorted(p for part in SOURCES for p in (root / part).rglob("*.py")):
        text = path.read_text()
        if "# guard: " not in text:
            continue
        for name in _marks_of(text):
            if name in found:
                raise MarkError(f"two guards are named {name!r}: {found[name]}, {path}")
            found[name] = path
    return found


@cache
def _marks_of(text: str) -> dict[str, int]:
    """Names and lines.  Comments only, so that a string cannot be a marker."""
    found: dict[str, int] = {}
    for token in _COMMENTS.finditer(text):
        if mark := _MARK.fullmatch(token["comment"] or ""):
            if mark[1] in found:
                raise MarkError(f"two guards of a file are named {mark[1]!r}")
            found[mark[1]] = text.count("\n", 0, token.start()) + 1
    return found


def turned_off(text: str, *guards: Guard) -> str:
    """The source without these guards; formatting and comments are lost."""
    return ast.unparse(tree_without(text, *guards))


def tree_without(text: str, *guards: Guard) -> ast.Module:
    """The module without these guards.

    Raises MarkError where there is no such marker, no statement below it, or no
    difference, and SyntaxError where ``becomes`` is not Python.
    """
    tree = ast.parse(text)
    for guard in guards:
        _take_out(tree, _marks_of(text).get(guard.name), guard)
    return tree


def compile_without(text: str, guard: Guard) -> CodeType:
    """Compile the top-level statement that has this guard, without the guard.

    For all guards of a long module, this takes a tenth of the time of whole modules.
    Raises as ``tree_without`` does.
    """
    line = _marks_of(text).get(guard.name, 0)
    tree = ast.parse(_around(text, line))
    _take_out(tree, line or None, guard)
    return compile(tree, guard.name, "exec")


def compile_with(text: str, guard: Guard) -> CodeType:
    """Compile that statement as it is."""
    return _compiled(_around(text, _marks_of(text)[guard.name]))


@cache
def _compiled(text: str) -> CodeType:
    return compile(text, "with all guards", "exec")


def _around(text: str, line: int) -> str:
    """The top-level statement that has a line, in its own lines; else all of the text."""
    for first, inner, last in _statements(text):
        if first < line < inner:
            return "\n" * (first - 1) + "\n".join(text.splitlines()[first - 1 : last])
    return text


@cache
def _statements(text: str) -> list[tuple[int, int, int]]:
    """First line, that of the last statement inside, and last line, of each at the top."""
    return [
        (
            _first_line(node),
            max((_first_line(b[-1]) for b in _blocks(node) if b), default=0),
            node.end_lineno or node.lineno,
        )
        for node in ast.parse(text).body
    ]


def _take_out(tree: ast.Module, line: int | None, guard: Guard) -> None:
    if line is None:
        raise MarkError(f"no guard is marked {guard.name!r}")
    block, place = _below(tree, line, guard.name)
    marked = block[place : place + guard.spans]
    if len(marked) < guard.spans:
        raise MarkError(f"{guard.name!r} spans more than its block has")
    instead = _instead(marked[0], guard.becomes)
    if [ast.dump(node) for node in marked] == [ast.dump(node) for node in instead]:
        raise MarkError(f"{guard.name!r} becomes what it is")
    block[place : place + guard.spans] = instead
    if not block:
        block.append(ast.parse("pass").body[0])


def _below(tree: ast.AST, line: int, name: str) -> tuple[list[ast.AST], int]:
    """The first statement or clause after this line: its block and place in it."""
    after = [
        (first, block, place)
        for block in _blocks(tree)
        for place, node in enumerate(block)
        if (first := _first_line(node)) > line
    ]
    if any(_is_inside(node, line) for block in _blocks(tree) for node in block):
        raise MarkError(f"{name!r} is marked inside of a statement, not above it")
    if not after:
        raise MarkError(f"nothing stands below the marker of {name!r}")
    _, block, place = min(after, key=lambda found: found[0])
    return block, place


def _is_inside(node: ast.AST, line: int) -> bool:
    """Whether a line is in the middle of a statement without a block."""
    if not isinstance(node, ast.stmt) or any(hasattr(node, name) for name in _BLOCKS):
        return False
    return node.lineno < line <= (node.end_lineno or node.lineno)


def _blocks(tree: ast.AST) -> Iterator[list[ast.AST]]:
    waiting = [tree]
    for node in waiting:
        for name in _BLOCKS:
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block
                waiting += block  # no expression has a block


def _first_line(node: ast.AST) -> int:
    if isinstance(node, ast.match_case):
        return node.pattern.lineno
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(d.lineno for d in decorators)])


def _instead(marked: ast.AST, becomes: str) -> list[ast.AST]:
    if not becomes.endswith(":"):
        return list(ast.parse(becomes).body)
    head = _head(becomes)
    for name in _BLOCKS:
        if hasattr(marked, name):
            setattr(head, name, getattr(marked, name))
    return [head]


def _head(becomes: str) -> ast.AST:
    """A statement or clause with an empty body."""
    if becomes.startswith("case "):
        (match,) = ast.parse(f"match 0:\n    {becomes}\n        pass").body
        assert isinstance(match, ast.Match)
        return match.cases[0]
    if becomes.startswith("except"):
        (attempt,) = ast.parse(f"try:\n    pass\n{becomes}\n    pass").body
        assert isinstance(attempt, ast.Try)
        return attempt.handlers[0]
    (statement,) = ast.parse(f"{becomes}\n    pass").body
    return statement


class Runs:
    """Runs of pytest in a copy, each in a fork of one warm process."""

    def __init__(self, directory: Path, server: trio.Process) -> None:
        self._directory = directory
        self._stdin, self._answers = server.stdin, server.stdout
        self._clock = 0
        self._seconds = _PROBE_SECONDS

    async def sound(self, test: str, words: Sequence[str]) -> bool:
        """Whether these tests pass; how long that takes bounds the runs that follow."""
        self._seconds = _PROBE_SECONDS * (1 + len(words) // 4)
        began = trio.current_time()
        code = await self.run(test, words)
        taken = trio.current_time() - began
        self._seconds = min(_PROBE_SECONDS, _HANG_SECONDS + _HANG_TIMES * taken)
        return code == 0

    async def run(self, test: str, words: Sequence[str], *options: str) -> int:
        """pytest's exit code for the tests of a file that any of these words selects."""
        options += ("-q", "-p", "no:cacheprovider", "--force-reruns=0")
        options += ("--assert=plain", test)
        if all(words):
            options += ("-k", " or ".join(f"({word})" for word in words))
        assert self._stdin is not None
        assert self._answers is not None
        request = json.dumps([options, self._seconds])
        await self._stdin.send_all(request.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            part = await self._answers.receive_some()
            if not part:
                raise MarkError("the process that runs pytest has ended")
            answer += part
        return int(answer)

    async def without(self, guard: Guard, path: Path) -> int:
        """pytest's exit code for the guard's tests without the guard."""
        whole, before = path.read_text(), path.stat()
        path.write_text(turned_off(whole, guard))
        self._clock += 1  # cached bytecode is known by the source's time, in seconds
        os.utime(path, (self._clock, self._clock))
        try:
            return await self.run(guard.test, [guard.word], "-x")
        finally:
            path.write_text(whole)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def output(self) -> str:
        """The end of what the last run printed."""
        return (self._directory / "forks.log").read_text(errors="replace")[-3000:]


@asynccontextmanager
async def _runs(directory: Path) -> AsyncIterator[Runs]:
    argv = [sys.executable, "-P", str(directory / FORKS)]
    env = {
        **os.environ,
        "PYTHONPATH": str(directory),
        "PYTHONPYCACHEPREFIX": str(directory / ".pycache"),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        server = await nursery.start(partial(start, cwd=directory, env=env))
        try:
            yield Runs(directory, server)
        finally:
            await server.stdin.aclose()  # its end


async def missed(names: Sequence[str], guards: Sequence[Guard]) -> list[str]:
    """Guards that no test notices the loss of.

    A test that fails, is skipped or is not found with everything in place notices
    nothing, and neither does one that cannot be loaded without the guard: such guards
    are among them.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="vt-guards-", dir="/tmp") as name:
        directory = Path(name)
        copy(directory)
        paths = marks(directory)
        chosen = [guard for guard in guards if not names or guard.name in names]
        async with _runs(directory) as runs:
            for test in dict.fromkeys(guard.test for guard in chosen):
                of_test = [guard for guard in chosen if guard.test == test]
                words = list(dict.fromkeys(guard.word for guard in of_test))
                sound = await runs.sound(test, words)
                for guard in of_test:
                    result = await _try(runs, guard, paths[guard.name], sound)
                    print(f"{result:17} {guard.name}", flush=True)
                    if result not in {NOTICED, HANGS}:
                        print(runs.output(), file=sys.stderr, flush=True)
                        found.append(guard.name)
    return found


async def _try(runs: Runs, guard: Guard, path: Path, sound: bool) -> str:
    if not sound and not await runs.sound(guard.test, [guard.word]):
        return "COULD NOT RUN"
    code = await runs.without(guard, path)
    return {0: "MISSED BY NO TEST", 1: NOTICED, HUNG: HANGS}.get(code, "COULD NOT RUN")


def copy(directory: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for part in (*SOURCES, "tests", "fuzz", "docs", "pyproject.toml"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, directory / part, ignore=ignore)
        else:
            shutil.copy(source, directory / part)


def main(guards: Sequence[Guard]) -> None:
    """Try the guards that are named on the command line, or all; exits."""
    sys.exit(1 if trio.run(missed, sys.argv[1:], guards) else 0)
