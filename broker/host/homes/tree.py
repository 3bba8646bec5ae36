"""The directory in which a box or a container keeps its home.

Only brokerctl runs this, with the user's rights: it makes a directory in the store of
homes, and never opens what a sandbox has put there.
"""

from __future__ import annotations

from broker.core.errors import SetupError
from broker.core.names import SandboxName
from broker.host.homes.store import TREE, Home, HomeStore


def ready_tree(store: HomeStore, name: SandboxName) -> Home:
    """Return the home of a sandbox that shares our kernel, made if none exists.

    The caller holds its lock.  Raises SetupError when the home is a disk.
    """
    home = store.find(name)
    if home is None:
        with store.new(TREE) as prepared:
            (prepared / TREE).mkdir(mode=0o700)
            return store.publish(prepared, name)
    if home.meta.kind != TREE:
        raise SetupError(
            f"cannot use the home of '{name}': it is a disk image, which another kind of sandbox uses",
            hint=f"set launch.kind as before, and copy the files that you need; then run 'brokerctl sandbox remove --keep-record {name}'",
        )
    return home
