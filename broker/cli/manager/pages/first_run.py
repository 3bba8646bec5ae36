"""The first run in three steps: check this machine, choose, start a framed window."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping
from typing import Any, Final

import tomlkit

from broker.cli.manager.pages.overview_pages import finding_rows
from broker.cli.manager.verb_runner import VerbRunner
from broker.cli.manager.widgets import (
    action_row,
    button,
    drop_down,
    entry_row,
    group,
    page_of,
    tell,
)
from broker.cli.manager.words import begun, known, tr
from broker.cli.sandboxes.presets import PRESETS, RUNNERS, record_text

_BOX: Final = "box"
_PURPOSES: Final = tuple(PRESETS)


class FirstRunPage:
    """The page; ``report`` is the object of ``doctor --json``, ``go`` shows a sandbox."""

    def __init__(
        self,
        parent: Any,
        verbs: VerbRunner,
        report: Mapping[str, Any],
        *,
        copy: Callable[[str], None],
        again: Callable[[], None],
        go: Callable[[str], None],
    ) -> None:
        self._parent = parent
        self._verbs = verbs
        self._go = go
        good = tr("Everything is good.")
        check = [
            action_row(
                tr("Check again"),
                tr("After a remedy."),
                button(tr("Check"), again, about=tr("this machine")),
            )
        ]
        self._purpose = drop_down(
            [begun(known(one)) for one in _PURPOSES], tr("Purpose")
        )
        self._purpose.connect("notify::selected", lambda *_: self._chosen())
        self._runner = drop_down(
            [tr(RUNNERS[_BOX].title), tr("Micro VM")], tr("Runs in")
        )
        self._help = action_row(tr("What is it for?"), "", self._purpose)
        self._program, program = entry_row(
            tr("Program"),
            tr("In a box one of this machine's; you can change it."),
            tr("Program"),
        )
        runs = action_row(
            tr("Runs in"),
            tr(
                "A box starts at once; the first micro VM builds an image, which takes minutes."
            ),
            self._runner,
        )
        self._start = action_row(
            "", "", button(tr("Create and start"), self._create, "suggested-action")
        )
        self._chosen()
        self.widget = page_of(
            [
                group(
                    tr("Step 1 of 3: check this machine"),
                    [*(finding_rows(report, copy) or [action_row(good, "")]), *check],
                ),
                group(
                    tr("Step 2 of 3: choose a purpose and a program"),
                    [self._help, runs, program],
                ),
                group(tr("Step 3 of 3: start"), [self._start]),
            ]
        )

    @property
    def _name(self) -> str:
        """The purpose, which is the sandbox's name, too."""
        return _PURPOSES[int(self._purpose.get_selected())]

    def _chosen(self) -> None:
        """Show what belongs to the purpose."""
        name = self._name
        self._help.set_subtitle(str(tr(PRESETS[name].help)))
        self._program.set_text(preset_program(name))
        self._start.set_title(str(tr("A sandbox with the name {name}", name=name)))
        self._start.set_subtitle(str(tr("Its window has a frame in its colour.")))

    def words(self) -> list[str]:
        """Return the words of ``brokerctl`` for the page's values."""
        words = ["new", "--for", self._name]
        if self._runner.get_selected() == 0:
            words += ["--in", _BOX]
        program = self._program.get_text().strip()
        if program:
            words += ["--command", program]
        return [*words, "--", self._name]

    def _create(self) -> None:
        """Make the record, then start its program."""
        name = self._name
        missing = missing_program(self._program.get_text())
        if self._runner.get_selected() == 0 and missing:
            tell(self._parent, tr("This program cannot be started"), missing)
            return

        def start(_result: object) -> None:
            self._verbs.start("menu", "start", name)
            self._go(name)

        self._verbs.run(*self.words(), title=tr("create {name}", name=name), done=start)


def preset_program(purpose: str) -> str:
    """Return the command of a purpose's record, as a line of a shell; empty: none."""
    command = tomlkit.parse(record_text(purpose)).unwrap()["launch"].get("command", [])
    return shlex.join(command)


def missing_program(line: str) -> str:
    """Return why a box of this machine cannot run a command; empty: it can."""
    try:
        words = shlex.split(line)
    except ValueError:
        return tr("A quotation mark in the command has no other end.")
    if not words:
        return tr("Enter a program of this machine, such as the name of your browser.")
    if shutil.which(words[0]) is None:
        return tr(
            "{program} is not installed on this machine. Enter another program, or choose "
            "'Micro VM', which has its own.",
            program=words[0],
        )
    return ""
