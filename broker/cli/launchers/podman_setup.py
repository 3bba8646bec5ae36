"""``brokerctl launcher install podman`` the OCI hook of this user's Podman, or root's."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from broker.cli import render
from broker.cli.launchers.setup import (
    Setup,
    SetupWords,
    hook_written,
    remove_files,
    sudo_caller,
)
from broker.core.errors import SetupError
from broker.core.paths import find_paths
from broker.host.launchers.podman.containers_conf import (
    DROP_IN,
    ROOTFUL_CONF,
    name_hooks,
)
from broker.host.launchers.podman.hooks import (
    PROGRAM,
    ROOTFUL_HOOKS,
    hook_files,
    rootful_files,
    write_hooks,
    write_rootful,
)
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
        raise SetupError(
            f"no user has the ID {uid}",
            hint="specify the ID of a user: --uid NUMBER",
        ) from error
    # guard: root's containers belong to a user's broker
    if uid == 0:
        raise SetupError(
            "the broker that leases root's containers must belong to another user "
            "than root",
            hint="pass this user's --uid NUMBER, or run the command with sudo as "
            "this user",
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
    render.note(
        "to test the hook, run: sudo podman run --annotation "
        "io.vitrail.sandbox=RECORD …"
    )


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _hooks_folder() -> Path:
    return _config_home() / "containers" / "oci" / "hooks.d"


def _drop_in() -> Path:
    return _config_home() / "containers" / "containers.conf.d" / DROP_IN


def _program() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "vitrail" / PROGRAM


def _install_podman(words: SetupWords) -> None:
    if os.geteuid() == 0:
        install_rootful(words.uid, as_json=words.as_json)
        return
    paths = find_paths()
    folder, conf = _hooks_folder(), _drop_in()
    control, records = paths.control, search_path(paths.runtime, paths.config)
    with hook_written():
        written = write_hooks(folder, _program(), control, records)
        other = name_hooks(folder, conf)
        if other is None:
            written.append(conf)
    render.written_files(written, as_json=words.as_json, add_to=other)
    if words.as_json:
        return
    if other is not None:
        render.note(f"add this directory to hooks_dir in {other}: {folder}")
    render.note(
        "to test the hook, run: podman run --annotation io.vitrail.sandbox=RECORD …"
    )


def _remove_podman(_app: str) -> None:
    paths = [*hook_files(_hooks_folder()), _program(), _drop_in()]
    remove_files([*rootful_files(), ROOTFUL_CONF] if os.geteuid() == 0 else paths)


PODMAN_SETUP = Setup("podman", _install_podman, _remove_podman)
