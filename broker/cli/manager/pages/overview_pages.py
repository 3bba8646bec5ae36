"""The pages of questions, devices and set-up, which are short lists of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from broker.cli.manager.following import ManagerState
from broker.cli.manager.widgets import action_row, button, group, page_of
from broker.cli.manager.words import joined, known, tr, trn
from broker.helpers.prompt.phrases import request_of
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
                tr("Pending questions"),
                [_question(one, verb) for one in state.questions],
                tr("No question is pending."),
            ),
            group(
                tr("Remembered answers"),
                [_grant(one, verb) for one in state.grants],
                tr("No answer is remembered."),
            ),
            group(
                tr("Earlier questions"),
                [
                    action_row(
                        tr("All questions, and who answered them"),
                        "",
                        button(tr("History"), history, about=tr("of questions")),
                    )
                ],
            ),
        )
    )


def _question(one: PendingQuestion, verb: Verb) -> Any:
    remark = tr("To allow it, use the question's own dialog.")
    details = joined("\n", [*one.details, remark])
    about = tr("question {number}", number=one.id)
    deny = button(tr("Deny"), lambda: verb("answer", str(one.id), "deny"), about=about)
    title = tr(
        "{name} wants {request}", name=one.sandbox, request=request_of(one.words)
    )
    return action_row(title, details, deny)


def _grant(one: GrantStatus, verb: Verb) -> Any:
    until = (
        tr("until it stops")
        if one.left is None
        else trn(
            "for {number} more minute",
            "for {number} more minutes",
            round(one.left / 60),
        )
    )
    about = joined(" · ", (one.about, until, tr("by {rule}", rule=one.rule)))
    revoke = button(
        tr("Revoke"),
        lambda: verb("grants", "revoke", one.id),
        about=tr("answer {number}", number=one.id),
    )
    title = tr(
        "{name}: {service} to {target}",
        name=one.sandbox,
        service=f"{one.service}{one.argument}",
        target=one.target,
    )
    return action_row(title, about, revoke)


def devices_page(
    state: ManagerState, choose: Callable[[DeviceStatus], None], verb: Verb
) -> Any:
    """Return the devices that are plugged in, each with its holder."""
    rows = [_device(one, choose, verb) for one in state.devices]
    empty = tr("No device is plugged in, or the devices' service is not set up.")
    return page_of((group(tr("USB devices"), rows, empty),))


def _device(
    one: DeviceStatus, choose: Callable[[DeviceStatus], None], verb: Verb
) -> Any:
    holder = tr("used by {name}", name=one.sandbox) if one.sandbox else known(one.state)
    if one.sandbox:
        switch = button(
            tr("Detach"), lambda: verb("device", "detach", one.port), about=one.title
        )
    else:
        switch = button(tr("Attach…"), lambda: choose(one), about=one.title)
    return action_row(one.title, joined(" · ", (one.port, one.id, holder)), switch)


def setup_page(
    report: Mapping[str, Any], warnings: tuple[str, ...], copy: Callable[[str], None]
) -> Any:
    """Return doctor's findings with their remedies, and the broker's warnings.

    ``report`` is the object of ``brokerctl doctor --json``.
    """
    findings = report["findings"]
    good = sum(found["state"] == "ok" for found in findings)
    said = [action_row(words, "") for words in warnings]
    return page_of(
        (
            group(tr("Warnings of the broker"), said, tr("There is no warning.")),
            group(
                tr(
                    "Check of this machine: {good} of {all} are good",
                    good=good,
                    all=len(findings),
                ),
                finding_rows(report, copy),
                tr("Everything is good."),
            ),
        )
    )


def finding_rows(report: Mapping[str, Any], copy: Callable[[str], None]) -> list[Any]:
    """Return a row for each of doctor's findings that is not good, with its remedy."""
    rows = []
    for found in report["findings"]:
        mend = str(found.get("mend") or "")
        if found["state"] == "ok":
            continue
        suffix = [button(tr("Copy"), partial(copy, mend), about=mend)] if mend else []
        text = "\n".join(filter(None, (str(found["text"]), mend)))
        # All of it: a remedy that is cut helps nobody.
        row = action_row(str(found["name"]), text, *suffix)
        row.set_subtitle_lines(0)
        rows.append(row)
    return rows
