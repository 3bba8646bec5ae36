"""``brokerctl launcher install podman`` by root: the hook of root's own Podman."""

from __future__ import annotations

import pwd

from broker.cli import render
from broker.cli.launchers.setup import hook_written, sudo_caller
from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.host.launchers.podman.containers_conf import ROOTFUL_CONF, name_hooks
from broker.host.launchers.podman.hooks import ROOTFUL_HOOKS, write_rootful
from policy.records.loader import search_path


def install_rootful(uid: int | None, *, as_json: bool) -> None:
    """Write the hook; ``uid``: whose broker leases containers of root's.

    Raises SetupError.
    """
    if uid is None:
        uid = sudo_caller()
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError as error:
        raise SetupError(f"no user has the ID {uid}") from error
    # guard: root's containers belong to a user's broker
    if uid == 0:
        raise SetupError(
            "the user whose broker leases the containers of root is not known",
            hint="add '--uid NUMBER', or run this with sudo",
        )
    paths = find_paths({"HOME": home, "XDG_RUNTIME_DIR": f"/run/user/{uid}"})
    records = search_path(paths.runtime, paths.config)
    with hook_written():
        written = write_rootful(uid, paths.runtime.parent, records)
        # guard: root's Podman is told where its hooks are
        other = name_hooks(ROOTFUL_HOOKS, ROOTFUL_CONF)
        if other is None:
            written.append(ROOTFUL_CONF)
    render.written_files(written, as_json=as_json, add_to=other)
    if as_json:
        return
    if other is not None:
        render.note(f"add this directory to hooks_dir in {other}: {ROOTFUL_HOOKS}")
    render.note("try it: sudo podman run --annotation io.vitrail.sandbox=RECORD …")
