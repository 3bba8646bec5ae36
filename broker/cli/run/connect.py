"""Functions shared by the verbs that connect to a running broker."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from broker.cli import render
from broker.core.errors import SetupError, VitrailError
from broker.core.names import sandboxes_named
from broker.core.paths import Paths, find_paths, require_private

if TYPE_CHECKING:
    import msgspec

    from broker.ipc.control.api import Status
    from broker.ipc.control.client import Client
    from broker.ipc.control.method import Method

_Request = TypeVar("_Request", bound="msgspec.Struct")
_Answer = TypeVar("_Answer", bound="msgspec.Struct")


def systemd_runs() -> bool:
    """Return whether systemd is this machine's service manager (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def offline_paths() -> Paths:
    """Return this user's paths, for verbs that read files and need no broker.

    They work where no session runs (ssh without a login manager, a rescue
    shell): an unusable XDG_RUNTIME_DIR is then no error for them.
    """
    try:
        return find_paths()
    except SetupError:
        run = f"/run/user/{os.geteuid()}"
        return find_paths({**os.environ, "XDG_RUNTIME_DIR": run})


def warn_unless_found() -> None:
    """Print a warning if the running sandboxes cannot be determined."""
    try:
        find_paths()
    except SetupError as error:
        render.note(f"warning: cannot determine the running sandboxes: {error.message}")


def broker_runs(paths: Paths) -> bool:
    """Return whether a broker of this user takes connections.

    Raises SetupError when that cannot be tried.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(paths.control))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as error:
            raise SetupError(
                f"cannot connect to the broker at {paths.control}: {error.strerror}",
                hint="run the command as the user who started the broker",
            ) from error
    return True


@asynccontextmanager
async def open_client(paths: Paths | None = None) -> AsyncIterator[Client]:
    """Connect to this user's broker.

    Reads the machine's role for its hint (``how_to_start``).  Raises SetupError that says
    how to start one when none runs.
    """
    # Late, as below: verbs that read files only need none of it.
    from broker.ipc.control import client

    where = find_paths() if paths is None else paths
    # guard: brokerctl looks at the runtime directory
    require_private(where)
    async with client.open_client(
        where.control, start=how_to_start(where)
    ) as connection:
        yield connection


def how_to_start(paths: Paths, *, living: bool = False) -> str:
    """Return a hint how to start the broker of this machine.

    ``living``: with the sandboxes that an earlier one has left.  Reads the machine's
    role, by which its key may be created (``role_here``).
    """
    from broker.cli.link.pairing.role import role_here
    from broker.net.link.wire_types import Role

    try:
        role = role_here(paths)
    except VitrailError:
        role = None  # the program itself reports the error at its start
    if role is Role.HOST:
        unit = ", or 'systemctl --user start vitrail-host'" if systemd_runs() else ""
        return f"start the broker: run vitrail-host{unit}"
    program = "vitrail-local" if role is None else "vitrail-viewer"
    hint = f"to start a broker, run 'brokerctl run SANDBOX' or {program}"
    if living:
        # Late: mostly there is a broker.
        from broker.cli.run.living import living_words

        hint = "; ".join(filter(None, (hint, living_words(paths))))
    return hint


def ask(method: Method[_Request, _Answer], request: _Request) -> _Answer:
    """Connect, call a method once, and return the answer.

    Without an event loop: importing trio takes longer than the question.
    """
    from broker.ipc.control.blocking import open_blocking

    paths = find_paths()
    with open_blocking(paths, start=lambda: how_to_start(paths, living=True)) as client:
        return client.call(method, request)


def ask_status() -> Status:
    """Return the status of this user's broker.  Raises SetupError when none runs."""
    from broker.ipc.control.api import Nothing
    from broker.ipc.control.methods import STATUS

    return ask(STATUS, Nothing())


def running_or_record(name: str) -> str:
    """Return the one sandbox that runs of a record, or the name as it is.

    Queries the broker if one runs.  Raises NotFoundError where several run.
    """
    from broker.viewer.sandboxes.named_lease import several_run

    if not broker_runs(find_paths()):
        return name
    status = ask_status()
    found = sandboxes_named(name, [(s.name, s.record) for s in status.sandboxes])
    if len(found) > 1:
        raise several_run(name, found)
    return found[0] if found else name
