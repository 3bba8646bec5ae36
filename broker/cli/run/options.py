"""The options that ``run``, ``exec`` and ``shell`` have in common."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

import rich_click as click
from typing_extensions import override

from broker.cli.completion import images
from broker.cli.run import terminal
from broker.core.launch_changes import LaunchChanges


class StreamFields(TypedDict):
    """The fields of a RunRequest that say which streams the program has."""

    env: dict[str, str]
    stdin: bool
    tty: bool
    rows: int | None
    columns: int | None
    stderr: bool


@dataclass(frozen=True)
class StreamWords:
    """The values given for the options."""

    tty: bool | None
    env: tuple[str, ...]
    quiet: bool
    as_json: bool

    def wants_tty(self, by_default: bool) -> bool:  # noqa: FBT001
        """Return whether the program gets a terminal.  Raises UsageError.

        ``by_default`` holds if nothing was given and a user sits here.
        """
        if not self.tty:
            here = terminal.has_terminal() and not self.as_json
            return self.tty is None and by_default and here
        if self.as_json:
            raise click.UsageError("--tty and --json cannot be used together")
        if not terminal.has_terminal():
            raise click.UsageError(
                "--tty requires a terminal as standard input and output"
            )
        return True

    def fields(self, *, tty: bool, stdin: bool) -> StreamFields:
        """Return a request's fields about terminal, input and variables."""
        rows, columns = terminal.size() if tty else (None, None)
        env = dict(_pairs(self.env))
        if tty:
            env.setdefault("TERM", os.environ.get("TERM", "dumb"))
        return StreamFields(
            env=env,
            stdin=stdin and not tty and terminal.has_input(),
            tty=tty,
            rows=rows,
            columns=columns,
            stderr=not tty,
        )


def options_of_streams(function: Callable[..., None]) -> Callable[..., None]:
    """Add these options to a verb, which receives them as ``words``."""

    @functools.wraps(function)
    def wrapper(
        *,
        tty: bool | None,
        env: tuple[str, ...],
        quiet: bool,
        as_json: bool,
        **others: object,
    ) -> None:
        function(words=StreamWords(tty, env, quiet, as_json), **others)

    for option in reversed(_OPTIONS):
        option(wrapper)
    return wrapper


_OPTIONS = (
    click.option(
        "-t/-T",
        "--tty/--no-tty",
        default=None,
        help="Allocate a terminal for the program.",
    ),
    click.option(
        "-e",
        "--env",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set an environment variable of the program.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object per line."
    ),
)


if TYPE_CHECKING:
    _IntParameter = click.ParamType[int]
else:  # Debian 12's click is not generic
    _IntParameter = click.ParamType


class _Memory(_IntParameter):
    """An amount of memory as a record has it, in MiB."""

    name = "amount"

    @override
    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        found = re.fullmatch(r"([1-9][0-9]{0,6})(M|MiB|G|GiB)?", str(value))
        if found is None:
            self.fail(
                f"{str(value)!r} is not a memory size such as 768M or 2G", param, ctx
            )
        return int(found[1]) * (1024 if (found[2] or "").startswith("G") else 1)


def options_of_changes(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that change a machine for one start; the verb receives ``changes``."""

    @functools.wraps(function)
    def wrapper(
        *,
        memory: int | None,
        cpus: int | None,
        network: Literal["none", "user"] | None,
        image: str | None,
        **others: object,
    ) -> None:
        function(changes=LaunchChanges(memory, cpus, network, image), **others)

    for option in reversed(_CHANGES):
        option(wrapper)
    return wrapper


_CHANGES = (
    click.option(
        "--memory", type=_Memory(), help="Memory for this start; at most the record's."
    ),
    click.option(
        "--cpus",
        type=click.IntRange(1),
        help="Number of CPUs for this start; at most the record's.",
    ),
    click.option(
        "--network",
        type=click.Choice(["none", "user"]),
        help="Network for this start; 'user' only if the record allows it.",
    ),
    click.option(
        "--image",
        metavar="IMAGE",
        shell_complete=images,
        help="Image for this start.",
    ),
)


def command_after_dashes(words: tuple[str, ...]) -> list[str] | None:
    """Return the words after ``--``; None if none exist."""
    if words[:1] == ("--",):
        return list(words[1:]) or None
    if words and words[0].startswith("-"):
        raise click.UsageError(
            f"expected a program instead of {words[0]}; specify options before SANDBOX"
        )
    return list(words) or None


def _pairs(words: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = [word.partition("=") for word in words]
    for name, equals, _value in pairs:
        if not name or not equals:
            raise click.BadParameter("specify NAME=VALUE", param_hint="--env")
    return [(name, value) for name, _, value in pairs]
