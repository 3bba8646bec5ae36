"""Listening sockets that a service manager hands over, sd_listen_fds(3).

Pure: the environment comes in, numbers of descriptors go out.

The host's or the viewer's program calls it at its start.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from broker.core.errors import SetupError
from broker.core.limits import link as limits

_FIRST = 3
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""To be removed from the environment once read: they are not our children's."""


def take_activated(
    environ: Mapping[str, str], pid: int, known: Collection[str]
) -> dict[str, int]:
    """Return the descriptors meant for process ``pid``, by their names.

    Raises SetupError for a name that is not ``known`` or comes twice: a socket
    without a process that accepts would keep its clients waiting forever.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return {}
    count = environ.get("LISTEN_FDS", "")
    if not count.isascii() or not count.isdigit() or int(count) > limits.ACTIVATED:
        raise SetupError(f"LISTEN_FDS={count!r} is not 0 to {limits.ACTIVATED}")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, int] = {}
    for number in range(int(count)):
        name = names[number] if number < len(names) else ""
        if name not in known or name in found:
            fault = "two sockets" if name in found else "a socket with the unknown name"
            raise SetupError(
                f"the service manager passed {fault} {name!r}",
                hint="set a different FileDescriptorName= in each .socket unit, of "
                + ", ".join(sorted(known)),
            )
        found[name] = _FIRST + number
    return found
