"""``vitrail.Secret``: one secret of the user's Secret Service, by its name."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.core.errors import SetupError, UpstreamError
from broker.core.stderr_log import log_stderr
from broker.ipc.session.service_orders import AskSecret
from broker.viewer.opening.failures import ToldError
from broker.viewer.orders.session_orders import UserSession


@asynccontextmanager
async def user_secret(
    session: UserSession, warrant: bytes, name: str
) -> AsyncIterator[socket.socket]:
    """Read a secret of the user's; yield a socket that delivers it.

    ``name`` has the form of a service's argument.  Raises ToldError when the user has no
    secret of this name or it cannot be read.
    """
    try:
        _, fds = await session.carry_out(AskSecret(warrant, name))
    except (SetupError, UpstreamError) as error:
        # The error has no output of it: the secret is in no log.
        log_stderr(f"vitrail: cannot read the secret {name}: {error.message}")
        raise ToldError(f"the user's desktop has no secret {name}") from error
    near, far = (socket.socket(fileno=fd) for fd in fds)
    with near, far:
        yield near
