"""Options that select events, common to all verbs of ``brokerctl audit``."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import rich_click as click
from typing_extensions import override

from broker.cli.audit.query.times import parse_time
from broker.cli.completion import kinds, logged_sandboxes, services
from broker.cli.late_group import LateGroup
from broker.core.errors import SetupError
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters

_Function = TypeVar("_Function", bound=Callable[..., object])

# Options that need no value, their default then, and their valid values:
# click would take any next word for one, and none that begins with '-'.
_OPTIONAL = {
    "-b": ("0", re.compile(r"all|[+-]?\d{1,6}|[0-9a-f-]{32,36}")),
    "--boot": ("0", re.compile(r"all|[+-]?\d{1,6}|[0-9a-f-]{32,36}")),
    "-n": ("10", re.compile(r"all|\+?\d{1,9}")),
    "--lines": ("10", re.compile(r"all|\+?\d{1,9}")),
}


def with_values(args: Sequence[str]) -> list[str]:
    """Return the words with a value for each option that needs none."""
    out: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*out, word, *words]
        out.append(word)
        if word in _OPTIONAL:
            default, value = _OPTIONAL[word]
            given = bool(words) and value.fullmatch(words[0])
            out.append(words.pop(0) if given else default)
    return out


class EventCommand(click.RichCommand):
    """A verb that selects events; ``-b`` and ``-n`` need no value, as in journalctl."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_values(args))


class AskingGroup(LateGroup):
    """The same for a verb that has further verbs."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_values(args))


@dataclass(frozen=True)
class EventOptions:
    """The values of the options."""

    filters: Filters
    boot: str
    """As it was given; a source knows which boot that is."""
    grep: re.Pattern[str] | None
    store: str
    """Where to ask: a PostgreSQL address, a file; empty: this user's log."""

    @property
    def anything(self) -> bool:
        """Whether any option selects events."""
        return self.filters != Filters() or bool(self.boot) or self.grep is not None


_OPTIONS = (
    click.option("-S", "--since", default="", metavar="TIME",
                 help="Show only events since this time, such as 'today', '-2h', '2026-11-20 06:00' or '@SECONDS'."),
    click.option("-U", "--until", default="", metavar="TIME", help="Show only events until this time."),
    click.option("-b", "--boot", default="", metavar="[BOOT]",
                 help="Show only events of this boot: its ID, 0 (this boot) or -1 (the previous boot)."),
    click.option("--sandbox", "sandboxes", multiple=True, metavar="NAME",
                 shell_complete=logged_sandboxes,
                 help="Show only events of this sandbox."),
    click.option("--service", "services", multiple=True, metavar="SERVICE", shell_complete=services,
                 help="Show only events about this service, such as 'Display' or 'vitrail.Display'."),
    click.option("--verdict", "verdicts", multiple=True,
                 type=click.Choice([v.value for v in schema.EventVerdict]),
                 help="Show only events with this verdict."),
    click.option("--rule", "rules", multiple=True, metavar="FILE[:LINE]",
                 help="Show only events that this rule decided."),
    click.option("--peer", "peers", multiple=True, metavar="PEER",
                 help="Show only events from this peer, such as 'cid 42'."),
    click.option("--lease", "leases", multiple=True, metavar="ID", help="Show only events of this lease."),
    click.option("--outcome", "outcomes", multiple=True, metavar="WORD",
                 help="Show only events with this outcome."),
    click.option("--kind", "kinds", multiple=True, metavar="KIND", shell_complete=kinds,
                 help="Show only events of this kind, such as 'stream.closed', or of a group, such as 'stream'."),
    click.option("--object", "objects", multiple=True, metavar="OBJECT",
                 help="Show only events about this address, file or device; '*' matches any text."),
    click.option("-g", "--grep", default="", metavar="REGEX",
                 help="Show only events with a matching text; an expression in lower case ignores case."),
    click.option("--machine", "machines", multiple=True, metavar="NAME",
                 help="Show only events of this machine (only in a fleet's store)."),
    click.option("--owner", "owners", multiple=True, metavar="ROLE",
                 help="Show only events that this database role shipped (only in a fleet's store)."),
    click.option("--store", default="", metavar="ADDRESS",
                 help="Read this store: postgresql://… or the file of an audit log."),
)  # fmt: skip


def asking(function: _Function) -> _Function:
    """Add these options to a verb, which receives them as ``asked``."""

    @functools.wraps(function)
    def wrapper(**words: object) -> object:
        taken = {name: words.pop(name) for name in _NAMES}
        return function(asked=_asked(**taken), **words)  # type: ignore[arg-type]

    for option in reversed(_OPTIONS):
        option(wrapper)
    return wrapper  # type: ignore[return-value]


_NAMES = (
    *("since", "until", "boot", "sandboxes", "services", "verdicts", "rules"),
    *("peers", "leases", "outcomes", "kinds", "objects", "grep", "machines"),
    *("owners", "store"),
)


def _asked(
    *,
    since: str,
    until: str,
    boot: str,
    grep: str,
    store: str,
    kinds: tuple[str, ...],
    machines: tuple[str, ...],
    sandboxes: tuple[str, ...],
    services: tuple[str, ...],
    verdicts: tuple[str, ...],
    rules: tuple[str, ...],
    peers: tuple[str, ...],
    leases: tuple[str, ...],
    outcomes: tuple[str, ...],
    objects: tuple[str, ...],
    owners: tuple[str, ...],
) -> EventOptions:
    """Check the options and return the search.  Raises UsageError."""
    _check_kinds(kinds)
    fleet = is_fleet(store)
    for option, values in (("--machine", machines), ("--owner", owners)):
        if values and not fleet:
            raise click.UsageError(f"{option} requires --store postgresql://…")
    if fleet and boot not in {"", "all"} and len(boot) < 32:
        raise click.UsageError("with --store, --boot accepts only a boot ID")
    filters = Filters(
        since_ns=_time("--since", since) if since else None,
        until_ns=_time("--until", until) if until else None,
        kinds=kinds,
        machines=machines,
        boot=boot if fleet and boot != "all" else "",
        sandboxes=sandboxes,
        services=services,
        verdicts=verdicts,
        rules=rules,
        peers=peers,
        leases=leases,
        outcomes=outcomes,
        objects=objects,
        owners=owners,
    )
    return EventOptions(filters, boot, _pattern(grep) if grep else None, store)


def is_fleet(store: str) -> bool:
    """Return whether an address names a PostgreSQL database."""
    return store.startswith(("postgresql:", "postgres:"))


def store_path(store: str) -> Path:
    """The file that an address names."""
    return Path(store.removeprefix("sqlite:"))


def _time(option: str, text: str) -> int:
    try:
        return parse_time(text, datetime.now())  # noqa: DTZ005 -- the system's zone
    except SetupError as error:
        # A wrong call, and not "nothing was found", which is what 1 means here.
        raise click.UsageError(f"{option}: {error.message}; {error.hint}") from error


def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern; one in lower case ignores case, as in journalctl."""
    try:
        return re.compile(text, 0 if any(map(str.isupper, text)) else re.IGNORECASE)
    except re.error as error:
        raise click.UsageError(
            f"--grep: '{text}' is not a regular expression: {error}"
        ) from error


def _check_kinds(kinds: Sequence[str]) -> None:
    """Raise UsageError for an unknown kind, which would otherwise match nothing."""
    known = {*schema.KINDS, *(kind.partition(".")[0] for kind in schema.KINDS)}
    for kind in kinds:
        if kind not in known:
            raise click.UsageError(
                f"no kind of event is named {kind!r}; the kinds are: "
                + ", ".join(sorted(schema.KINDS))
            )
