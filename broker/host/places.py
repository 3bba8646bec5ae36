"""Where the sandboxes of records are plugged in: ``lan:NAME`` and ``through:RECORD``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeAlias

from broker.core.errors import SetupError
from broker.core.names import SandboxName
from broker.host.network.switch.switch_ports import (
    LAN_WORD,
    THROUGH_WORD,
    PortRole,
    SwitchPlace,
)
from policy.records.model import Record

if TYPE_CHECKING:
    from broker.host.network.switch.switches import SwitchSeat

FindSeats: TypeAlias = Callable[
    [SandboxName, Record, AsyncExitStack], tuple["SwitchSeat", ...]
]
"""Plugs a sandbox of a record in, until the stack ends."""


def network_of(record: Record) -> str:
    """Return the ``launch.network`` of a record; ``none`` where its kind has none."""
    return str(getattr(record.host.launch, "network", "none"))


def provides_network(record: Record) -> bool:
    """Return whether others may have their network through this one."""
    return bool(getattr(record.host.launch, "provides_network", False))


def places_of(record: Record, records: Mapping[str, Record]) -> tuple[SwitchPlace, ...]:
    """Return the switches that a sandbox of this record joins, and its role there.

    Raises SetupError for a provider that has no record, does not say that it is one,
    or is itself a client.
    """
    network = network_of(record)
    places = []
    if network.startswith(LAN_WORD):
        places.append(SwitchPlace(network, PortRole.MEMBER))
    elif network.startswith(THROUGH_WORD):
        provider = records.get(network.removeprefix(THROUGH_WORD))
        # guard: networks lead to no circle
        if (
            provider is None
            or not provides_network(provider)
            or network_of(provider).startswith(THROUGH_WORD)
        ):
            raise SetupError(
                f'the record of network = "{network}" is missing or cannot provide a network',
                where=record.where("launch.network"),
                hint="name a record with provides_network = true and a network other than through:RECORD",
            )
        places.append(SwitchPlace(network, PortRole.CLIENT))
    # guard: a sandbox is the network of others by its own record only
    if provides_network(record):
        places.append(SwitchPlace(THROUGH_WORD + record.name, PortRole.PROVIDER))
    return tuple(places)
