"""``brokerctl audit``: show events of the log, with or without a running broker."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import rich_click as click
from click.core import ParameterSource

from broker.cli import render
from broker.cli.audit.event_text import AskingGroup, EventOptions, asking
from broker.cli.audit.events import as_message
from broker.cli.audit.integrity import banner
from broker.cli.audit.print import OUTPUTS, texts
from broker.cli.audit.source import LocalSource, Source, open_source
from broker.cli.completion import known_sandboxes
from broker.cli.interrupts import reader_may_leave
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import SetupError
from broker.core.escape import printable
from broker.core.files.replace_file import replace_file
from broker.ipc.audit.filters import Filters, Found, value_texts
from policy.suggestions import did_you_mean

_BEFORE_FOLLOWING = 10
"""Lines shown before following, as journalctl -f does."""


@dataclass(frozen=True)
class _Show:
    """The options of the output."""

    follow: bool
    reverse: bool
    first: int | None
    """Only so many, the oldest; ``last`` the newest."""
    last: int | None
    output: str
    utc: bool
    pager: bool
    after: str
    """A cursor."""
    show_cursor: bool
    cursor_file: Path | None


_LATER = MappingProxyType(
    {
        "connections": "audit.connections:command",
        "trace": "audit.trace:command",
        "stats": "audit.stats:command",
        "report": "audit.report:command",
        "export": "audit.export:command",
        "ship": "fleet.ship:command",
        "verify": "audit.verify:verify_command",
        "prove": "audit.verify:prove_command",
        "checkpoint": "audit.verify:checkpoint_command",
        "gc": "audit.gc:gc_command",
        "fleet": "fleet.fleet_verbs:fleet",
    }
)


@click.group(
    "audit",
    cls=AskingGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@asking
@click.option("-f", "--follow", is_flag=True, help="Keep running, and show new events.")
@click.option(
    "-n",
    "--lines",
    default="",
    metavar="[N]",
    help="Show the last N events [default: 10], the first N with +N, or all with 'all'.",
)
@click.option("-r", "--reverse", is_flag=True, help="Show the newest events first.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(OUTPUTS),
    default=None,
    help="Output format; default: short.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as -o jsonl.")
@click.option("--utc", is_flag=True, help="Show times in UTC.")
@click.option("--list-boots", is_flag=True, help="List the boots in the log.")
@click.option("--no-pager", is_flag=True, help="Do not pipe output into a pager.")
@click.option(
    "--after-cursor",
    "after",
    default="",
    metavar="CURSOR",
    help="Show only events after this cursor.",
)
@click.option(
    "--show-cursor", is_flag=True, help="Print the cursor of the last event at the end."
)
@click.option(
    "--cursor-file",
    type=NamedPath(dir_okay=False, path_type=Path),
    help="Continue after the cursor in this file, and update the file.",
)
@click.pass_context
def command(
    context: click.Context,
    *,
    asked: EventOptions,
    follow: bool,
    lines: str,
    reverse: bool,
    output: str | None,
    as_json: bool,
    utc: bool,
    no_pager: bool,
    after: str,
    show_cursor: bool,
    cursor_file: Path | None,
    list_boots: bool,
) -> None:
    """Show the broker's decisions and their outcome.

    An event must match every given option; an option that is given several times
    matches any of its values.

    Exit code: 0 events were found, 1 no events match, 2 usage error, 3 the log has
    been changed.
    """
    if context.invoked_subcommand is not None:
        _no_words_before(context)
        return
    if as_json and output not in {None, "jsonl"}:
        raise click.UsageError("--json and -o cannot be used together")
    whole = output in {"json", "csv"}
    if follow and (reverse or show_cursor or cursor_file or whole):
        raise click.UsageError(
            "--follow cannot be used with -r, a cursor, or an output format other "
            "than short, cat or jsonl"
        )
    if after and cursor_file:
        raise click.UsageError(
            "--after-cursor and --cursor-file cannot be used together"
        )
    first, last = _lines(lines)
    if follow and not lines and asked.filters.since_ns is None and not after:
        last = _BEFORE_FOLLOWING
    show = _Show(
        follow=follow,
        reverse=reverse,
        first=first,
        last=last,
        output="jsonl" if as_json else output or "short",
        utc=utc,
        pager=sys.stdout.isatty() and not follow and not no_pager,
        after=_read_cursor(cursor_file) if cursor_file else after,
        show_cursor=show_cursor,
        cursor_file=cursor_file,
    )
    with reader_may_leave(), open_source(asked) as source:
        if list_boots:
            _list_boots(source)
            return
        found = _answer(source, asked, show)
        changed = banner(source)
    if changed:
        render.note(changed)
        sys.exit(_INTEGRITY)
    if not found:
        _end_without_events(asked)


_INTEGRITY = 3


def _end_without_events(asked: EventOptions) -> NoReturn:
    """Say that no events were found, and which sandboxes do not exist."""
    render.note("no events match" if asked.anything else "no events")
    tell_unknown(asked)
    sys.exit(1)


def tell_unknown(asked: EventOptions) -> None:
    """Say which sandboxes of a question do not exist."""
    for name in asked.filters.sandboxes:
        if hint := _unknown(name):
            render.note(hint)


def _unknown(name: str) -> str:
    """Return the hint about a sandbox that no record and no log has; empty for others."""
    known = known_sandboxes()
    if name in known:
        return ""
    near = did_you_mean(name, known)
    return (
        f"no sandbox or record is named '{printable(name, 60)}'{near and '; ' + near}"
    )


def _list_boots(source: Source) -> None:
    """Print the boots as journalctl does: number, id, first and last event."""
    if not isinstance(source, LocalSource):
        raise click.UsageError("--list-boots works only on the log of one machine")
    boots = source.log.boots()
    rows = [
        (
            str(n - len(boots) + 1),
            boot.boot,
            *map(_moment, (boot.first_ns, boot.last_ns)),
        )
        for n, boot in enumerate(boots)
    ]
    render.table(["BOOT", "ID", "FIRST EVENT", "LAST EVENT"], rows)


def _moment(time_ns: int) -> str:
    return f"{datetime.fromtimestamp(time_ns // 1_000_000_000):%Y-%m-%d %H:%M:%S}"  # noqa: DTZ006 -- the system's zone


def _no_words_before(context: click.Context) -> None:
    """Raise UsageError for options before a subcommand, which would have no effect."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"specify {parameter.opts[-1]} after '{context.invoked_subcommand}'"
            )


def _lines(text: str) -> tuple[int | None, int | None]:
    """Parse ``--lines``: how many last and first events; None for all."""
    if text in {"", "all"}:
        return None, None
    if not text.removeprefix("+").isdecimal() or len(text) > 10:
        raise click.UsageError(
            f"--lines requires a number, +NUMBER or 'all', not {text!r}"
        )
    return (int(text[1:]), None) if text[0] == "+" else (None, int(text))


class _Seen:
    """Passes events on and remembers the last one."""

    def __init__(self, events: Iterator[Found]) -> None:
        self._events = events
        self.last: Found | None = None

    def __iter__(self) -> Iterator[Found]:
        for found in self._events:
            self.last = found
            yield found


def _answer(source: Source, asked: EventOptions, show: _Show) -> bool:
    """Show the events; return whether there were any."""
    filters = source.filters(asked)
    seen = _Seen(iter(()) if filters is None else _events(source, filters, asked, show))
    lines = texts(seen, show.output, colour=_coloured(show), utc=show.utc)
    if show.pager:
        _page(lines, colour=_coloured(show))
    else:
        for line in lines:
            sys.stdout.write(line)
    _tell_cursor(source, seen.last, show)
    if show.follow and filters is not None:
        sys.stdout.flush()
        import trio  # late: the other questions need no event loop

        trio.run(_follow, source, filters, asked, show, seen)
    return seen.last is not None


def _events(
    source: Source, filters: Filters, asked: EventOptions, show: _Show
) -> Iterator[Found]:
    """Yield the events in the order in which they are shown."""
    backwards = show.reverse if show.last is None else True
    limit = show.first if show.last is None else show.last
    if show.first is not None and show.reverse:
        # The oldest ones, the newest of them first.
        oldest = [*_events(source, filters, asked, replace(show, reverse=False))]
        yield from reversed(oldest)
        return
    grep = asked.grep
    events = source.find(
        filters,
        cursor=show.after,
        last=limit if grep is None and backwards else None,
        newest_first=backwards,
    )
    if grep is not None:
        events = (f for f in events if _matches(grep, f))
    events = islice(events, limit)
    if backwards and not show.reverse:
        events = reversed([*events])
    yield from events


def _matches(grep: re.Pattern[str], found: Found) -> bool:
    """Return whether the pattern matches the shown line or any value in the event."""
    if grep.search(as_message(found).plain):
        return True
    return any(map(grep.search, value_texts(found)))


def _tell_cursor(source: Source, last: Found | None, show: _Show) -> None:
    """Print and store the cursor of the last event that was shown."""
    if last is None or not (show.show_cursor or show.cursor_file):
        return
    cursor = source.cursor(last)
    if show.show_cursor:
        # Where programs read, it must not be among the events.
        people = show.output in {"short", "cat"}
        (sys.stdout if people else sys.stderr).write(f"-- cursor: {cursor}\n")
    if show.cursor_file is not None:
        # guard: a cursor is kept once its events have been written
        sys.stdout.flush()
        _keep_cursor(show.cursor_file, cursor)


def _keep_cursor(path: Path, cursor: str) -> None:
    """Replace the file of the cursor; follows no link.  Raises SetupError.

    The file may be in a directory that several users write to.
    """
    try:
        # guard: the cursor's file replaces a link
        replace_file(path, f"{cursor}\n".encode())
    except OSError as error:
        raise SetupError(f"cannot write {path}: {render.cause(error)}") from error


_CURSOR_BYTES = 4096


def _read_cursor(path: Path) -> str:
    # guard: the cursor's file is read through no link
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise click.UsageError(f"--cursor-file: {path} is not a regular file")
            return file.read(_CURSOR_BYTES).decode().strip()
    except FileNotFoundError:
        return ""  # the first time
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"cannot read {path}: {render.cause(error)}") from error


def _page(lines: Iterator[str], *, colour: bool) -> None:
    """Show the text in the user's pager, which exits at once if the text fits the screen."""
    os.environ.setdefault("LESS", "FRXK")
    click.echo_via_pager(lines, color=colour)


async def _follow(
    source: Source,
    filters: Filters,
    asked: EventOptions,
    show: _Show,
    seen: _Seen,
) -> None:
    """Print events as they are recorded, until interrupted."""
    colour = _coloured(show)
    following = source.follow(filters, shown=seen.last, cursor=show.after)
    async with aclosing(following) as events:
        async for found in events:
            if asked.grep is None or _matches(asked.grep, found):
                seen.last = found
                for line in texts([found], show.output, colour=colour, utc=show.utc):
                    sys.stdout.write(line)
                sys.stdout.flush()


def _coloured(show: _Show) -> bool:
    if show.output not in {"short", "cat"} or not sys.stdout.isatty():
        return False
    from rich.console import Console  # late: for a terminal

    return not Console().no_color


command.later = _LATER
