"""A group of verbs that loads each verb's module when the verb is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

import rich_click as click
from typing_extensions import override

from broker.cli.usage import refuse_unknown_verb
from broker.core.errors import SetupError
from broker.core.parts.absent import AbsentPartError, needed

_NONE: Mapping[str, str] = MappingProxyType({})


class LateGroup(click.RichGroup):
    """A group that loads a verb when it is used.

    ``later`` maps a verb's name to ``module:attribute``, the module below broker.cli:
    'brokerctl policy check' then does not wait for what 'policy import' needs.  The
    group's own help loads all of them.
    """

    later: Mapping[str, str] = _NONE

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.later})

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self.later.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, attribute = place.split(":")
        try:
            with needed(f"'{ctx.command_path} {cmd_name}'"):
                loaded = importlib.import_module(f"broker.cli.{module}")
        except SetupError as error:
            return unavailable(cmd_name, error)
        command: click.Command = getattr(loaded, attribute)
        return command

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        refuse_unknown_verb(self, ctx, args)
        return super().resolve_command(ctx, args)


def unavailable(name: str, error: SetupError) -> click.Command:
    """Return a verb that a missing package keeps from working, for its group's help."""
    why = error.message
    if isinstance(error, AbsentPartError):
        why = f"in the package {error.package}"

    def refuse() -> None:
        raise error

    return click.RichCommand(
        name=name,
        callback=refuse,
        short_help=f"(not available: {why})",
        help=f"Not available: {error.message}; {error.hint}.",
        context_settings={"ignore_unknown_options": True},
        params=[click.Argument(["words"], nargs=-1, expose_value=False)],
    )
