"""Verbs of brokerctl as child processes: the manager may do no more than its user's shell."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any, Final

import trio

from broker.cli.manager.words import shown, tr
from broker.core.errors import UpstreamError
from broker.core.escape import displayed
from broker.core.language.notices import in_users_language
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import spawn

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")
_LINES: Final = 60
_CHARACTERS: Final = 4000


@dataclass(frozen=True, slots=True)
class VerbResult:
    """The end of a verb: its exit code, standard output, and what it said to the user.

    ``output`` and ``words`` are for a dialog, ``data`` is the whole standard output.
    brokerctl prints English; of ``words`` the sentences of the table of notices are in the
    user's language.
    """

    code: int
    output: str
    words: str
    data: bytes = b""

    @property
    def done(self) -> bool:
        """Return whether it did what it was asked for."""
        return self.code == 0

    def json(self) -> Any:
        """Return the object that it printed; its texts are not escaped.

        Raises UpstreamError for another output.
        """
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError) as error:
            raise UpstreamError(
                f"brokerctl printed no JSON: {self.output[:200] or self.words[:200]}",
                hint="if Vitrail was just updated, start the manager again",
            ) from error


async def run_verb(*words: str, secret: bytes = b"") -> VerbResult:
    """Run ``brokerctl WORDS`` to its end, without a terminal, and return the result.

    ``secret`` is its standard input: a passphrase is in no argument.  A cancelled call
    ends the verb by SIGTERM, as trio.run_process does.
    """
    process = await trio.run_process(
        our_program("broker.cli.app", *words),
        stdin=secret,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
    )
    return VerbResult(
        process.returncode,
        _text(process.stdout),
        in_users_language(_text(process.stderr)),
        process.stdout,
    )


def start_verb(*words: str) -> None:
    """Start ``brokerctl WORDS`` and leave it to itself, as an entry of the menu does."""
    _start("brokerctl", "broker.cli.app", *words)


def start_manager(page: str) -> None:
    """Show a page in the manager's window, which is opened if there is none."""
    _start("vitrail-manager", "broker.cli.manager.app", page)


def _start(name: str, module: str, *words: str) -> None:
    spawn(our_program(module, *words), name=name, outlive_us=True).abandon()


def dialog_text(text: str) -> str:
    """Return a text as a dialog shows it; one that is too long begins with a line about that."""
    whole = shown(text).strip()
    part = "\n".join(whole.splitlines()[:_LINES])[:_CHARACTERS]
    if part == whole:
        return part
    note = tr("Only a part is shown here; in a terminal, brokerctl shows all.")
    # guard: a preview that is cut says so where it begins
    return f"{note}\n{part}…"


def _text(data: bytes) -> str:
    """Return the first lines of a verb's output, without what drives a terminal."""
    text = _ESCAPES.sub("", data.decode(errors="replace")).strip()
    return displayed(text)
