"""``brokerctl pending``: questions that wait for the user's answer."""

from __future__ import annotations

import sys

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.audit.events import shown_target
from broker.cli.run.connect import ask
from broker.core.escape import printable
from broker.helpers.prompt.phrases import request_of
from broker.ipc.control.api import Nothing, PendingQuestion
from broker.ipc.control.methods import PENDING


@click.command("pending")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool) -> None:
    """List pending questions, oldest first.

    Exit code: 0 done, also if there are none.
    """
    found = ask(PENDING, Nothing())
    if as_json:
        render.json_line(msgspec.to_builtins(found))
    for question in [] if as_json else found.questions:
        sys.stdout.write("".join(f"{line}\n" for line in lines(question)))
    if not found.questions:
        render.note("no question is pending")


def lines(question: PendingQuestion) -> list[str]:
    """Return a question as lines of text; a sandbox's text is escaped again."""
    values = {
        "question": question.id,
        "sandbox": question.sandbox,
        "label": printable(question.label),
        "request": request_of(question.words),
        "seconds": f"{question.left:.0f}",
    }
    if question.shown:
        head = (
            "{question}: {sandbox} ({label}) wants {request} [{seconds} s left, on "
            "the screen]"
        ).format(**values)
    else:
        head = (
            "{question}: {sandbox} ({label}) wants {request} [{seconds} s left]".format(
                **values
            )
        )
    out = [head]
    if question.argument:
        out.append(f"   argument: {question.argument}")
    out += [f"   {detail}" for detail in question.details]
    targets = [
        f"[{shown_target(one)}]"
        if one == question.default_target
        else shown_target(one)
        for one in question.targets
    ]
    out.append(f"   targets: {', '.join(targets)}")
    if len(question.keeps) > 1:
        what = f" ({question.remembers})" if question.remembers else ""
        keeps = ", ".join(question.keeps)
        out.append(f"   durations: {keeps}" + what)
    out.append(f"   asked by {question.rule}")
    return [printable(line, 1000) for line in out]
