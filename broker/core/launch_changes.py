"""Differences of one start of a machine from its record: less, not more.

The user asks for it (``brokerctl run --memory 512M``), and the host bounds it by its
own record, because a viewer that was taken over may ask for anything.

brokerctl reads them from its options, the viewer sends them, the host applies them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from broker.core.errors import RefusedError
from broker.core.escape import printable

_MOST = 1 << 24
"""More than any machine has, in MiB or processors; the link carries no more."""
_IMAGE = re.compile(r"[a-z][a-z0-9-]{0,30}")


@dataclass(frozen=True)
class LaunchChanges:
    """None leaves the record's value; ``memory_mib`` is in MiB."""

    memory_mib: int | None = None
    cpus: int | None = None
    network: Literal["none", "user"] | None = None
    image: str | None = None

    @classmethod
    def take(
        cls,
        memory_mib: int | None,
        cpus: int | None,
        network: str | None,
        image: str | None,
    ) -> LaunchChanges:
        """Validate a request's values.

        Raises RefusedError for those that mean nothing.
        """
        for value, unit in ((memory_mib, "MiB"), (cpus, "processors")):
            if value is not None and not 1 <= value <= _MOST:
                raise RefusedError(f"{value} {unit} is not an amount from 1 to {_MOST}")
        if image is not None and not _IMAGE.fullmatch(image):
            raise RefusedError(
                f"{printable(image, 60)!r} is not an image name",
                hint="to list the images, run 'brokerctl image list'",
            )
        match network:
            case None | "none" | "user":
                return cls(memory_mib, cpus, network, image)
            case _:
                raise RefusedError(
                    f"{printable(network, 60)!r} is not a network: use none or user"
                )

    def __bool__(self) -> bool:
        """Return whether anything is asked for."""
        return self != NO_CHANGES

    def refuse_more(self, *, memory_mib: int, cpus: int, network: str) -> None:
        """Raise RefusedError for more than a record's values, or nothing at all."""
        _at_most("memory", "MiB", self.memory_mib, memory_mib)
        _at_most("cpus", "processors", self.cpus, cpus)
        # guard: a start has no network that its record has not
        if self.network == "user" and network != "user":
            raise RefusedError(
                f'cannot start the sandbox with network "user": its record sets "{network}"',
                hint='to allow that network, set network = "user" in [launch] of the record',
            )


NO_CHANGES = LaunchChanges()


def _at_most(key: str, unit: str, asked: int | None, limit: int) -> None:
    """Raise RefusedError unless a requested amount is within the record's limit."""
    # guard: a start is within its record
    if asked is not None and not 1 <= asked <= limit:
        raise RefusedError(
            f"cannot start the sandbox with {asked} {unit}: its record allows 1 to {limit}",
            hint=f"to raise the limit, set {key} in [launch] of the record",
        )
