"""The pages of guest images and of homes with their backups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from broker.cli.manager.details import HomeFacts
from broker.cli.manager.pages.home_groups import home_rows
from broker.cli.manager.sandbox_actions import SandboxActions, Toast
from broker.cli.manager.verb_runner import VerbRunner
from broker.cli.manager.widgets import (
    action_row,
    ask,
    button,
    group,
    memory_words,
    page_of,
)
from broker.cli.manager.words import joined, tr, trn

_DAY = 86400


def backups_page(homes: Sequence[Mapping[str, Any]], actions: SandboxActions) -> Any:
    """Return the homes of ``brokerctl sandbox list --json``, with their copies."""
    groups = [
        group(
            tr("Backups"),
            [
                action_row(
                    tr("Import a backup"),
                    tr("Make a sandbox of a file that 'Back up' wrote."),
                    button(tr("Import…"), actions.import_backup),
                )
            ],
        )
    ]
    groups += [
        group(
            _title(one),
            home_rows(
                str(one["name"]),
                HomeFacts(int(one["used"]), tuple(map(str, one["snapshots"]))),
                actions,
            ),
        )
        for one in homes
    ]
    if not homes:
        text = tr(
            "No sandbox has a home. The first run of a sandbox of class 'persistent' makes "
            "it."
        )
        groups.append(group(tr("Homes"), [], text))
    return page_of(groups)


def _title(one: Mapping[str, Any]) -> str:
    """Return the name of a home, and why little can be done with it."""
    name = str(one["name"])
    if one["in_use"]:
        return tr("{name} — runs; stop it to copy or change its home", name=name)
    return name if one["record"] else tr("{name} — has no record", name=name)


class ImagesPage:
    """The images of ``brokerctl image list --json``; ``parent`` has the dialogs.

    ``toast`` shows what was done if the page does not show it.
    """

    def __init__(
        self,
        parent: Any,
        verbs: VerbRunner,
        images: Sequence[Mapping[str, Any]],
        users: Mapping[str, Sequence[str]],
        toast: Toast,
    ) -> None:
        self._parent = parent
        self._verbs = verbs
        self._toast = toast
        all_of_them = action_row(
            tr("All images"),
            tr("Build every image again from the current packages; minutes for each."),
            button(tr("Rebuild all…"), self._rebuild),
        )
        weekly = action_row(
            tr("Weekly rebuild"),
            tr("A timer of systemd builds all images again each week."),
            button(
                tr("Turn on"), partial(self._timer, "on"), about=tr("weekly rebuild")
            ),
            button(
                tr("Turn off"), partial(self._timer, "off"), about=tr("weekly rebuild")
            ),
        )
        rows = [self._row(one, users.get(str(one["name"]), ())) for one in images]
        empty = tr(
            "There is no image. The first start of a micro VM builds the one it needs."
        )
        self.widget = page_of(
            [
                group(tr("Updates"), [all_of_them, weekly]),
                group(tr("Images"), rows, empty),
            ]
        )

    def _row(self, one: Mapping[str, Any], users: Sequence[str]) -> Any:
        name = str(one["name"])
        age = round(float(one["age_seconds"]) / _DAY)
        facts = [
            str(one["suite"]),
            trn("built {number} day ago", "built {number} days ago", age)
            if age
            else tr("built today"),
            memory_words(int(one["bytes"])),
            tr("kernel {version}", version=str(one["kernel"])),
            trn(
                "{number} package chosen",
                "{number} packages chosen",
                len(one["packages"]),
            ),
            tr("used by {name}", name=", ".join(users))
            if users
            else tr("used by no record"),
        ]
        return action_row(
            name,
            joined(" · ", facts),
            button(tr("Roll back…"), partial(self._roll_back, name), about=name),
            button(tr("Remove…"), partial(self._remove, name, users), about=name),
        )

    def _rebuild(self) -> None:
        ask(
            self._parent,
            tr("Rebuild all images?"),
            tr(
                "Packages are fetched, and each image is built again. The former version "
                "of each stays for 'Roll back'; the version before that would be lost. "
                "Running machines keep the image that they have."
            ),
            tr("Rebuild"),
            lambda: self._verbs.run("image", "rebuild", title=tr("rebuild all images")),
        )

    def _timer(self, state: str) -> None:
        text = (
            tr("The weekly rebuild is on")
            if state == "on"
            else tr("The weekly rebuild is off")
        )
        self._verbs.run(
            *("image", "timer", state), done=lambda _result: self._toast(text, None)
        )

    def _roll_back(self, name: str) -> None:
        ask(
            self._parent,
            tr("Roll back {name}?", name=name),
            tr(
                "New machines use the version of '{name}' that the last build replaced. "
                "Nothing is lost: a second 'Roll back' exchanges them again.",
                name=name,
            ),
            tr("Roll back"),
            lambda: self._verbs.run(
                *("image", "rollback", name),
                done=lambda _result: self._toast(
                    tr("The former version of {name} is used", name=name), None
                ),
            ),
        )

    def _remove(self, name: str, users: Sequence[str]) -> None:
        needed = (
            tr(
                "{names} cannot start until it is built again, which takes minutes.",
                names=", ".join(users),
            )
            if users
            else tr("No record uses it.")
        )
        ask(
            self._parent,
            tr("Remove image {name}?", name=name),
            tr(
                "This would be lost: the image '{name}' and its former version. {needed} "
                "Running machines keep it until they stop.",
                name=name,
                needed=needed,
            ),
            tr("Remove"),
            lambda: self._verbs.run("image", "remove", name),
            lossy=True,
        )
