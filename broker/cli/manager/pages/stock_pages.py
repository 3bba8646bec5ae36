"""The pages of guest images and of homes with their backups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from broker.cli.manager.details import HomeFacts
from broker.cli.manager.pages.home_groups import home_rows
from broker.cli.manager.sandbox_actions import SandboxActions
from broker.cli.manager.verb_runner import VerbRunner
from broker.cli.manager.widgets import (
    action_row,
    ask,
    button,
    group,
    memory_words,
    page_of,
)

_DAY = 86400


def backups_page(homes: Sequence[Mapping[str, Any]], actions: SandboxActions) -> Any:
    """Return the homes of ``brokerctl sandbox list --json``, with their copies."""
    groups = [
        group(
            "Backups",
            [
                action_row(
                    "Import a backup",
                    "Make a sandbox of a file that 'Back up' wrote.",
                    button("Import…", actions.import_backup),
                )
            ],
        )
    ]
    groups += [
        group(
            f"{one['name']}{_state(one)}",
            home_rows(
                str(one["name"]),
                HomeFacts(int(one["used"]), tuple(map(str, one["snapshots"]))),
                actions,
            ),
        )
        for one in homes
    ]
    if not homes:
        text = "No sandbox has a home. The first run of one of class 'persistent' makes it."
        groups.append(group("Homes", [], text))
    return page_of(groups)


def _state(one: Mapping[str, Any]) -> str:
    if one["in_use"]:
        return " — runs; stop it to copy or change its home"
    return "" if one["record"] else " — has no record"


class ImagesPage:
    """The images of ``brokerctl image list --json``; ``parent`` has the dialogs."""

    def __init__(
        self,
        parent: Any,
        verbs: VerbRunner,
        images: Sequence[Mapping[str, Any]],
        users: Mapping[str, Sequence[str]],
    ) -> None:
        self._parent = parent
        self._verbs = verbs
        all_of_them = action_row(
            "All images",
            "Build every image again from the current packages; minutes for each.",
            button("Rebuild all…", self._rebuild),
        )
        weekly = action_row(
            "Weekly rebuild",
            "A timer of systemd builds all images again each week.",
            button("Turn on", partial(self._timer, "on"), about="weekly rebuild"),
            button("Turn off", partial(self._timer, "off"), about="weekly rebuild"),
        )
        rows = [self._row(one, users.get(str(one["name"]), ())) for one in images]
        empty = (
            "There is no image. The first start of a micro VM builds the one it needs."
        )
        self.widget = page_of(
            [group("Updates", [all_of_them, weekly]), group("Images", rows, empty)]
        )

    def _row(self, one: Mapping[str, Any], users: Sequence[str]) -> Any:
        name = str(one["name"])
        age = float(one["age_seconds"]) / _DAY
        facts = [
            str(one["suite"]),
            f"built {age:.0f} days ago" if age >= 1 else "built today",
            memory_words(int(one["bytes"])),
            f"kernel {one['kernel']}",
            f"{len(one['packages'])} packages chosen",
            f"used by {', '.join(users)}" if users else "used by no record",
        ]
        return action_row(
            name,
            " · ".join(facts),
            button("Roll back…", partial(self._roll_back, name), about=name),
            button("Remove…", partial(self._remove, name, users), about=name),
        )

    def _rebuild(self) -> None:
        ask(
            self._parent,
            "Rebuild all images?",
            "Packages are fetched, and each image is built again. The former version of "
            "each stays for 'Roll back'; the version before that would be lost. Running "
            "machines keep the image that they have.",
            "Rebuild",
            lambda: self._verbs.run("image", "rebuild", title="rebuild all images"),
        )

    def _timer(self, state: str) -> None:
        self._verbs.run("image", "timer", state)

    def _roll_back(self, name: str) -> None:
        ask(
            self._parent,
            f"Roll back {name}?",
            f"New machines use the version of '{name}' that the last build replaced. "
            "Nothing is lost: a second 'Roll back' exchanges them again.",
            "Roll back",
            lambda: self._verbs.run("image", "rollback", name),
        )

    def _remove(self, name: str, users: Sequence[str]) -> None:
        needed = (
            f" {', '.join(users)} cannot start until it is built again, which takes minutes."
            if users
            else " No record uses it."
        )
        ask(
            self._parent,
            f"Remove image {name}?",
            f"This would be lost: the image '{name}' and its former version.{needed} "
            "Running machines keep it until they stop.",
            "Remove",
            lambda: self._verbs.run("image", "remove", name),
            lossy=True,
        )
