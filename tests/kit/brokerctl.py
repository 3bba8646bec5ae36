"""Running ``brokerctl`` as a person or a script does: in a separate process."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import unicodedata
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import (
    asynccontextmanager,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from broker.cli.app import main
from broker.core.paths import Paths, find_paths
from broker.helpers.process.spawn import DEVNULL, PIPE, Child, has_ended, spawn

# A shell that starts the tests in the background has SIGINT ignored in them, and
# Python then leaves it so; the tests are about a person's Ctrl-C.
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from broker.cli.app import main; sys.exit(main())"
)

_NOTED_BYTES = 1 << 14

OUR_PYTHON = {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "PYTHONDONTWRITEBYTECODE": "1",
    # Where the tests' user may not write into the checkout, its compiled modules are in
    # their cache: without them each process compiles all that it imports.
    **({"PYTHONPYCACHEPREFIX": sys.pycache_prefix} if sys.pycache_prefix else {}),
}
"""Variables with which a separate process runs this checkout."""


@dataclass(frozen=True)
class Answer:
    """Its standard output, standard error and exit code."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict]:
        """Standard output, a JSON object a line."""
        return [json.loads(line) for line in self.lines]


_PASSED_ON = frozenset({"PATH", "LANG", "USER", "VITRAIL_ACCEL"})


@contextmanager
def home() -> Iterator[dict[str, str]]:
    """An environment with everything of a user's in a new directory.

    Its name is short: sockets must fit below it.
    """
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as name:
        directory = Path(name)
        run = directory / "run"
        run.mkdir(mode=0o700)
        env = {k: v for k, v in os.environ.items() if k in _PASSED_ON}
        yield env | {
            "HOME": name,
            "XDG_RUNTIME_DIR": str(run),
            "XDG_CONFIG_DIRS": str(directory / "etc"),
            **OUR_PYTHON,
            "TERM": "dumb",
            "VITRAIL_FORK": "no",
        }


def paths_of(env: Mapping[str, str]) -> Paths:
    """Where that user's things are."""
    paths = find_paths(env)
    paths.runtime.mkdir(mode=0o700, exist_ok=True)
    return paths


async def brokerctl(
    *words: str, env: Mapping[str, str], deadline: float = 60, stdin: int | None = None
) -> Answer:
    """Run it to its end; ``stdin`` is a descriptor, without one it is empty."""
    out, err = bytearray(), bytearray()
    async with running(*words, env=env, stdin=stdin) as child:
        with trio.fail_after(deadline):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_drain, child.popen.stdout, out)
                nursery.start_soon(_drain, child.popen.stderr, err)
            code = await child.wait()
    return Answer(code, out.decode(), err.decode())


def called(*words: str, env: Mapping[str, str]) -> Answer:
    """Call it inside this process and return its answer: a start takes half a second.

    For verbs that run no event loop, in tests that have one.
    """
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        for name in [*os.environ]:
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["brokerctl", *words])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def harmless(text: str) -> bool:
    """Whether no character of it drives a terminal or hides others."""
    return not any(
        unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" for c in text
    )


@asynccontextmanager
async def running(
    *words: str, env: Mapping[str, str], stdin: int | None = None
) -> AsyncIterator[Child]:
    """Run it beside the test; killed at the end if it still runs.

    An error of the block has a note of what it wrote, and whether it had ended.
    """
    argv = [sys.executable, "-c", _START, *words]
    given = DEVNULL if stdin is None else stdin
    child = spawn(argv, env=env, stdin=given, stdout=PIPE, stderr=PIPE)
    try:
        yield child
    except Exception as error:
        error.add_note(_wrote(child, words))
        raise
    finally:
        await child.kill_and_wait()
        for pipe in (child.popen.stdout, child.popen.stderr):
            if pipe is not None:
                pipe.close()


def _wrote(child: Child, words: Sequence[str]) -> str:
    """Say for an error how far the child is, and what of its output was not read."""
    ended = child.pidfd < 0 or has_ended(child.pidfd)
    lines = [f"brokerctl {' '.join(words)}: {'has ended' if ended else 'still runs'}"]
    for pipe in (child.popen.stdout, child.popen.stderr):
        if pipe is None or pipe.closed:
            continue
        os.set_blocking(pipe.fileno(), False)
        with suppress(BlockingIOError):
            lines.append(os.read(pipe.fileno(), _NOTED_BYTES).decode(errors="replace"))
    return "\n".join(lines)


async def _drain(pipe, into: bytearray) -> None:
    async with trio.lowlevel.FdStream(os.dup(pipe.fileno())) as stream:
        async for data in stream:
            into += data


async def lines_of(child: Child) -> AsyncIterator[str]:
    """Its standard output, line by line as it comes; for ``aclosing``."""
    rest = b""
    assert child.popen.stdout is not None
    fd = os.dup(child.popen.stdout.fileno())
    async with trio.lowlevel.FdStream(fd) as stream:
        async for data in stream:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line.decode()
