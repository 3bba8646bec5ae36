"""The page of a new sandbox: its name, what runs it, and what it is for."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from broker.cli.manager.verb_runner import VerbRunner
from broker.cli.manager.widgets import (
    action_row,
    ask,
    button,
    drop_down,
    entry_row,
    group,
    page_of,
)
from broker.cli.manager.words import begun, joined, known, tr
from broker.cli.menu.in_terminal import in_terminal
from broker.cli.sandboxes.presets import PRESETS, RUNNERS, record_text

_WORDS: Final = ("", *RUNNERS)
"""ManagerText of ``brokerctl new --in``, in the order of the page; empty: a micro VM."""


class NewPage:
    """The page; ``go`` shows the new sandbox."""

    def __init__(
        self, parent: Any, verbs: VerbRunner, go: Callable[[str], None]
    ) -> None:
        self._parent = parent
        self._verbs = verbs
        self._go = go
        self._name, named = entry_row(
            tr("Name"),
            tr("Letters, digits and '-'; empty: its purpose."),
            tr("Name of the sandbox"),
        )
        self._runner = drop_down(
            [tr("Micro VM"), *(tr(one.title) for one in RUNNERS.values())],
            tr("What runs the sandbox"),
        )
        self._what, what = entry_row(
            tr("Image or application"),
            tr(
                "Of a container, such as debian:12, or of Flatpak, such as "
                "org.mozilla.firefox."
            ),
            tr("Image or application"),
        )
        self._packages, packages = entry_row(
            tr("Packages"),
            tr("Debian packages that a micro VM needs, with spaces."),
            tr("Packages"),
        )
        purposes = [
            action_row(
                begun(known(word)),
                tr(preset.help),
                button(tr("Create…"), partial(self._show, word), about=known(word)),
            )
            for word, preset in PRESETS.items()
        ]
        domain = action_row(
            tr("Machine of libvirt"),
            tr(
                "Make a sandbox of a domain that you have already; a terminal asks which."
            ),
            button(tr("Adopt…"), lambda: in_terminal(("adopt",), os.environ)),
        )
        runner = action_row(tr("Runs in"), "", self._runner)
        self.widget = page_of(
            [
                group(tr("New sandbox"), [named, runner, what, packages]),
                group(tr("What is it for?"), purposes),
                group(tr("Or"), [domain]),
            ]
        )

    def _show(self, preset: str) -> None:
        """Show the record and the rules that would be written, and ask."""
        name = self._name.get_text().strip() or preset
        words = self.words(preset, name)
        runner = words[words.index("--in") + 1] if "--in" in words else None
        record = record_text(preset, runner)
        lines = [line for line in record.splitlines() if line and line[:1] != "#"]
        rules = PRESETS[preset].lines(name) or [tr("no rule")]
        text = joined("\n", [tr("Its record:"), *lines, " ", tr("Its rules:"), *rules])
        ask(
            self._parent,
            tr("Create {name}?", name=name),
            joined(
                "\n\n",
                [text, tr("Nothing is lost: a record that exists is not replaced.")],
            ),
            tr("Create"),
            lambda: self._verbs.run(*words, done=lambda _result: self._go(name)),
        )

    def words(self, preset: str, name: str) -> list[str]:
        """Return the words of ``brokerctl`` for the page's values."""
        words = ["new", "--for", preset]
        word = _WORDS[self._runner.get_selected()]
        if word:
            named = f"={self._what.get_text().strip()}" if RUNNERS[word].what else ""
            words += ["--in", f"{word}{named}"]
        for package in self._packages.get_text().split():
            words += ["--package", package]
        return [*words, "--", name]
