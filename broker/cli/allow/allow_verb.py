"""``brokerctl allow``: show the rule that would allow a refused call, and write it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import rich_click as click

from broker.cli import render

if TYPE_CHECKING:
    from broker.cli.allow.offer import RuleOffer

_RECENT_SECONDS, _LISTED = 60, 20
_HOW = {"o": "once", "a": "always", "k": "ask", "n": "no"}


@click.command("allow")
@click.argument("event", metavar="[EVENT]", type=click.IntRange(1), required=False)
@click.option(
    "--once", "how", flag_value="once", help="Allow one call within a minute."
)
@click.option("--always", "how", flag_value="always", help="Add the line to the rules.")
@click.option(
    "--ask", "how", flag_value="ask", help="Add a line that asks about each call."
)
@click.option("--list", "listed", is_flag=True, help="List the newest refusals.")
@click.option(
    "--watch",
    is_flag=True,
    help="Watch for refusals, and offer a rule for each in a notification.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    event: int | None, *, how: str | None, listed: bool, watch: bool, as_json: bool
) -> None:
    """Allow the call of EVENT, a refusal in the audit log [default: the newest].

    Show the rule that would allow the call, the file to which it would be added, and the
    other calls that it would allow; then ask, unless --once, --always or --ask is given.
    With one of these, EVENT may be omitted if only one call was refused in the last minute.

    A rule that is added with --once is in force for one call within a minute.

    Exit code: 0 a rule was written, 1 nothing was written, 2 usage error.
    """
    if watch:
        import trio

        from broker.cli.allow.watch import watch_refusals

        trio.run(watch_refusals, os.environ)
        return
    from broker.cli.allow.offer import offer_for
    from broker.cli.allow.refusals import last_refusals

    if listed:
        _list(as_json=as_json)
        return
    if event is None:
        found = last_refusals(1)
        if not found:
            render.note("the audit log does not contain a refusal by a rule")
            sys.exit(1)
        event = found[0].sequence if how is None else _only_recent()
    offer = offer_for(event)
    _show(offer, as_json=as_json)
    choice = how or _asked()
    if choice == "no":
        render.note("nothing was written")
        sys.exit(1)
    _write(offer, choice)


def _only_recent() -> int:
    """Return the number of the refusal, if only one call was refused in the last minute.

    Raises RefusedError otherwise: a sandbox can repeat a refused call at any time.
    """
    from broker.cli.allow.refusals import refusals_within
    from broker.core.errors import RefusedError

    calls = refusals_within(_RECENT_SECONDS)
    # guard: a sandbox exchanges no call that the user allows
    if len(calls) == 1:
        return calls[0].sequence
    if not calls:
        raise RefusedError(
            "nothing was written: no call was refused in the last minute",
            hint="repeat the action that was refused, then run this command again; "
            "for older refusals, run 'brokerctl allow --list'",
        )
    lines = "".join(f"\n    {call.sequence}  {call.what}" for call in calls[:_LISTED])
    raise RefusedError(
        f"nothing was written: several calls were refused in the last minute:{lines}",
        hint="to allow one of them, add its number: 'brokerctl allow EVENT --once'; "
        "to list more, run 'brokerctl allow --list'",
    )


def _show(offer: RuleOffer, *, as_json: bool) -> None:
    """Print the offered line, its file, and what else it allows."""
    from broker.cli.policy.show import print_change
    from broker.core.escape import printable

    if as_json:
        render.json_line(
            {
                "event": offer.sequence,
                "refused": offer.what,
                "line": offer.line,
                "file": str(offer.file),
                "changes": len(offer.changes),
                "others": len(offer.others),
            }
        )
        return
    render.note(f"event {offer.sequence} was refused: {offer.what}")
    rule = f" [{offer.rule}]" if offer.rule else ""
    render.note(printable(f"  reason: {offer.reason}{rule}", 500))
    render.note(f"this line would allow the call:\n    {offer.line}")
    render.note(f"  in {offer.file}")
    if not offer.others:
        render.note("the line does not change decisions about other sandboxes")
    else:
        render.note("the line also changes decisions about other sandboxes:")
    for change in offer.others[:20]:
        print_change(change)


def _asked() -> str:
    """Return the user's choice; no at the end of the input."""
    if not sys.stdin.isatty():
        render.note("to choose, pass --once, --always or --ask")
        return "no"
    while True:
        render.note("allow [o]nce, [a]lways, as[k] each time, or [n]o? (n)")
        line = sys.stdin.readline()
        word = line.strip().lower()[:1] or "n"
        if word in _HOW:
            return _HOW[word]


def _write(offer: RuleOffer, choice: str) -> None:
    """Write the offered line by the user's choice, and report it.

    ``once`` starts a process that removes the line again.
    """
    from broker.cli.allow.offer import ONCE_SECONDS
    from broker.cli.allow.write import always, once

    if choice == "once":
        once(offer)
        render.note(
            f"one call is allowed within {ONCE_SECONDS} s; repeat the action now"
        )
        return
    line = offer.asking if choice == "ask" else offer.line
    render.note(f"wrote {always(offer, line)}: {line}")


def _list(*, as_json: bool) -> None:
    """List the last refused requests."""
    from broker.cli.allow.refusals import last_refusals

    rows = last_refusals(20)
    if as_json:
        render.json_line([{"event": r.sequence, "what": r.what} for r in rows])
        return
    if rows:
        render.table(["EVENT", "REFUSED"], [(str(r.sequence), r.what) for r in rows])
