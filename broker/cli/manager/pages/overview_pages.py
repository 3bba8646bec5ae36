"""The pages of questions, devices and set-up, which are short lists of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from broker.cli.manager.following import ManagerState
from broker.cli.manager.widgets import action_row, button, group, page_of
from broker.ipc.control.api import (
    DeviceStatus,
    GrantStatus,
    PendingQuestion,
)

Verb = Callable[..., None]
"""Runs a verb of brokerctl, and shows its failure."""


def questions_page(state: ManagerState, verb: Verb, history: Callable[[], None]) -> Any:
    """Return the pending questions and the remembered answers.

    A question is denied here, but not allowed: a window of a sandbox could cover or
    imitate this one.  The trusted dialog, with its guards, gives a yes.
    """
    return page_of(
        (
            group(
                "Pending questions",
                [_question(one, verb) for one in state.questions],
                "No question is pending.",
            ),
            group(
                "Remembered answers",
                [_grant(one, verb) for one in state.grants],
                "No answer is remembered.",
            ),
            group(
                "Earlier questions",
                [
                    action_row(
                        "All questions, and who answered them",
                        "",
                        button("History", history, about="of questions"),
                    )
                ],
            ),
        )
    )


def _question(one: PendingQuestion, verb: Verb) -> Any:
    details = "\n".join([*one.details, "To allow it, use the question's own dialog."])
    deny = button(
        "Deny", lambda: verb("answer", str(one.id), "deny"), about=f"question {one.id}"
    )
    return action_row(f"{one.sandbox} wants {one.words}", details, deny)


def _grant(one: GrantStatus, verb: Verb) -> Any:
    until = (
        "until it stops" if one.left is None else f"for {one.left / 60:.0f} more min"
    )
    about = " ".join(filter(None, (one.about, until, f"by {one.rule}")))
    revoke = button(
        "Revoke", lambda: verb("grants", "revoke", one.id), about=f"answer {one.id}"
    )
    title = f"{one.sandbox}: {one.service}{one.argument} to {one.target}"
    return action_row(title, about, revoke)


def devices_page(
    state: ManagerState, choose: Callable[[DeviceStatus], None], verb: Verb
) -> Any:
    """Return the devices that are plugged in, each with its holder."""
    rows = [_device(one, choose, verb) for one in state.devices]
    empty = "No device is plugged in, or the devices' service is not set up."
    return page_of((group("USB devices", rows, empty),))


def _device(
    one: DeviceStatus, choose: Callable[[DeviceStatus], None], verb: Verb
) -> Any:
    holder = f"used by {one.sandbox}" if one.sandbox else one.state
    if one.sandbox:
        switch = button(
            "Detach", lambda: verb("device", "detach", one.port), about=one.title
        )
    else:
        switch = button("Attach…", lambda: choose(one), about=one.title)
    return action_row(one.title, f"{one.port} · {one.id} · {holder}", switch)


def setup_page(
    report: Mapping[str, Any], warnings: tuple[str, ...], copy: Callable[[str], None]
) -> Any:
    """Return doctor's findings with their remedies, and the broker's warnings.

    ``report`` is the object of ``brokerctl doctor --json``.
    """
    findings = report["findings"]
    rows = []
    for found in findings:
        mend = str(found.get("mend") or "")
        if found["state"] == "ok":
            continue
        suffix = [button("Copy", partial(copy, mend), about=mend)] if mend else []
        text = "\n".join(filter(None, (str(found["text"]), mend)))
        # All of it: a remedy that is cut helps nobody.
        row = action_row(str(found["name"]), text, *suffix)
        row.set_subtitle_lines(0)
        rows.append(row)
    good = sum(found["state"] == "ok" for found in findings)
    said = [action_row(words, "") for words in warnings]
    return page_of(
        (
            group("Warnings of the broker", said, "None."),
            group(
                f"Check of this machine: {good} of {len(findings)} are good",
                rows,
                "Everything is good.",
            ),
        )
    )
