"""``brokerctl answer``: answer a question without the dialog."""

from __future__ import annotations

import rich_click as click

from broker.cli.run.connect import ask
from broker.ipc.control.api import QuestionAnswerRequest
from broker.ipc.control.methods import ANSWER
from policy.names import ADMIN_NAMES
from policy.tools.calls import canonical_target

_ALLOW, _DENY = ("allow", "yes"), ("deny", "no")
_KEEPS = ("once", "time", "session")


@click.command("answer")
@click.argument("number", metavar="ID", type=click.IntRange(min=1))
@click.argument("verdict", metavar="allow|deny", type=click.Choice([*_ALLOW, *_DENY]))
@click.option(
    "--target",
    help="Target of the answer; default: the one that 'brokerctl pending' "
    "shows in brackets.",
)
@click.option(
    "--keep",
    type=click.Choice(_KEEPS),
    default="once",
    show_default=True,
    help="How long to allow the request: one of the durations that 'brokerctl pending' lists.",
)
def command(number: int, verdict: str, *, target: str | None, keep: str) -> None:
    """Answer the question ID of 'brokerctl pending'; yes and no are understood, too.

    Exit code: 0 answered, 1 the question is not pending or does not offer this answer.
    """
    request = QuestionAnswerRequest(
        id=number, allow=verdict in _ALLOW, target=_offered(target), keep=keep
    )
    ask(ANSWER, request)


def _offered(target: str | None) -> str | None:
    """Return a target as questions offer it: ``pending`` shows the user as ``you``."""
    if target is None:
        return None
    return "dom0" if canonical_target(target) in ADMIN_NAMES else target
