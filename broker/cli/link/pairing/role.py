"""Determine whether this machine is paired, before a verb starts a broker."""

from __future__ import annotations

from broker.core.errors import SetupError
from broker.core.paths import Paths
from broker.net.link.wire_types import Role
from broker.net.link_service.config import declared_role


def role_here(paths: Paths) -> Role | None:
    """Return which of two machines this one is; None when it is the only one.

    ``link.toml`` says so, and if none exists (a viewer needs none) the
    broker that this one was paired with.  The pairings are read beside this broker's key,
    which is created if it is absent (``LinkStore.peers``).  Raises SetupError when these
    are damaged or contradict each other.
    """
    declared = declared_role(paths)
    if declared is not None:
        return declared
    if not (paths.state / "link").exists():
        return None  # and no key is made for a machine that is the only one
    # Late: the keys' library takes a fifth of a verb's start, on every machine.
    from broker.net.link_service.key_store import LinkStore

    store = LinkStore(paths)
    if not store.peers_file.exists():
        return None
    roles = {peer.role.other for peer in store.peers().all}
    if len(roles) > 1:
        raise SetupError(
            "this machine is paired both as a host and as a viewer, but link.toml "
            "does not select one of them",
            hint="set connect or listen in link.toml, or run 'brokerctl link forget "
            "NAME'",
        )
    return roles.pop() if roles else None
