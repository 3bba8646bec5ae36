"""Verbs of brokerctl as child processes: the manager may do no more than its user's shell."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

import trio

from broker.core.escape import displayed
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import spawn

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")
_ABOUT_LINES: Final = 60
"""Of a verb's output that a dialog shows."""


@dataclass(frozen=True, slots=True)
class VerbResult:
    """The end of a verb: its exit code, standard output, and what it said to the user."""

    code: int
    output: str
    words: str

    @property
    def done(self) -> bool:
        """Return whether it did what it was asked for."""
        return self.code == 0


async def run_verb(*words: str) -> VerbResult:
    """Run ``brokerctl WORDS`` to its end, without a terminal, and return the result.

    A cancelled call ends the verb by SIGTERM, as trio.run_process does.
    """
    process = await trio.run_process(
        our_program("broker.cli.app", *words),
        stdin=b"",
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
    )
    return VerbResult(process.returncode, _text(process.stdout), _text(process.stderr))


def start_verb(*words: str) -> None:
    """Start ``brokerctl WORDS`` and leave it to itself, as an entry of the menu does."""
    _start("brokerctl", "broker.cli.app", *words)


def start_manager(page: str) -> None:
    """Show a page in the manager's window, which is opened if there is none."""
    _start("vitrail-manager", "broker.cli.manager.app", page)


def _start(name: str, module: str, *words: str) -> None:
    spawn(our_program(module, *words), name=name, outlive_us=True).abandon()


def _text(data: bytes) -> str:
    text = _ESCAPES.sub("", data.decode(errors="replace")).strip()
    return displayed("\n".join(text.splitlines()[:_ABOUT_LINES]))
