"""Functions shared by the verbs that connect to a running broker."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from broker.core.errors import SetupError, VitrailError
from broker.core.escape import printable
from broker.core.names import sandboxes_named
from broker.core.paths import Paths, find_paths, require_private

if TYPE_CHECKING:
    from broker.control.client import Client

_Result = TypeVar("_Result")


def offline_paths() -> Paths:
    """This user's paths, for verbs that read files and need no broker.

    They work where no session runs (ssh without a login manager, a rescue
    shell): an unusable XDG_RUNTIME_DIR is then no error for them.
    """
    try:
        return find_paths()
    except SetupError:
        run = f"/run/user/{os.geteuid()}"
        return find_paths({**os.environ, "XDG_RUNTIME_DIR": run})


def broker_runs(paths: Paths) -> bool:
    """Whether a broker of this user answers."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(paths.control))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as error:
            raise SetupError(
                f"the broker at {paths.control} cannot be reached: {error.strerror}",
                hint="a broker serves the user who started it: are you that user?",
            ) from error
    return True


@asynccontextmanager
async def open_client(paths: Paths | None = None) -> AsyncIterator[Client]:
    """Connect to this user's broker.

    Raises SetupError that says how to start one when none runs.
    """
    # Late, as below: verbs that read files only need none of it.
    from broker.control import client

    where = find_paths() if paths is None else paths
    # guard: brokerctl looks at the runtime directory
    require_private(where)
    async with client.open_client(
        where.control, start=how_to_start(where)
    ) as connection:
        yield connection


def how_to_start(paths: Paths) -> str:
    """How the broker of this machine is started."""
    from broker.link.wire_types import Role
    from broker.services.link.role import role_here

    try:
        role = role_here(paths)
    except VitrailError:
        role = None  # the program itself reports the error at its start
    if role is Role.HOST:
        return "start it: vitrail-host, or 'systemctl --user start vitrail-host'"
    program = "vitrail-local" if role is None else "vitrail-viewer"
    return f"'brokerctl run SANDBOX' starts one, or start it by hand: {program}"


def ask(question: Callable[[Client], Awaitable[_Result]]) -> _Result:
    """Connect, ask, and return the answer: for verbs that ask once."""
    import trio

    async def asking() -> _Result:
        async with open_client() as connection:
            return await question(connection)

    return trio.run(asking)


def running_or_record(name: str) -> str:
    """Return the one sandbox that runs of a record, or the name as it is.

    Raises NotFoundError where several run.
    """
    from broker.control.api import NotFoundError

    if not broker_runs(find_paths()):
        return name
    status = ask(lambda connection: connection.status())
    found = sandboxes_named(name, [(s.name, s.record) for s in status.sandboxes])
    if len(found) > 1:
        raise NotFoundError(
            f"'{printable(name, 60)}' has {len(found)} sandboxes",
            hint=f"name one of them: {', '.join(found)}",
        )
    return found[0] if found else name
