"""A group of verbs that loads each verb's module when the verb is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

import rich_click as click
from typing_extensions import override

from broker.cli.usage import refuse_unknown_verb

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
        loaded: click.Command = getattr(
            importlib.import_module(f"broker.cli.{module}"), attribute
        )
        return loaded

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        refuse_unknown_verb(self, ctx, args)
        return super().resolve_command(ctx, args)
