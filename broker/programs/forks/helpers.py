"""What the fork server of helpers forks: starter, pumps, keepers and acceptors.

One small process for all, so that they share the pages of the interpreter and of our
modules.  It never imports the worker or an event loop, starts with three variables of the
session and no file of it, and holds no socket of a child.  Each child takes from itself
what it does not need before it serves: a pump or an acceptor all but its list of system
calls, a keeper other programs and processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial

from broker.helpers import starter
from broker.helpers.apart import Compile, from_child
from broker.helpers.process.fork_server import (
    Forking,
    StartedChild,
    Starts,
    fork_child,
    forking,
    share,
)
from broker.helpers.pump import process as pump
from broker.ipc import fork_server as messages
from broker.programs.acceptor import become_acceptor
from broker.programs.keeper import become_keeper
from broker.wire import fdpass


def _of_authority() -> Sequence[bytes]:
    # Late, as all of them: in the child alone that compiles.
    from broker.helpers.filters.session_filters import authority_filter

    return [authority_filter()]


def _of_viewer(pid: int) -> Sequence[bytes]:
    from broker.helpers.filters.viewer_filter import viewer_filter

    return [viewer_filter(pid)]


def _of_children() -> Sequence[bytes]:
    from broker.helpers.filters.carrying_filters import acceptor_filter, pump_filter
    from broker.helpers.filters.keeper_filter import keeper_filter

    return keeper_filter(), pump_filter(), acceptor_filter()


def _starts(filters: Sequence[bytes], compositor: str) -> Starts:
    """Return how each helper is forked, under its filter of system calls."""
    keepers, pumps, acceptors = filters

    def become_pump(_: messages.ForkPump, fds: Sequence[int]) -> None:
        control, stderr = fds
        pump.become_pump(control, stderr, pumps)

    return {
        messages.FORK_KEEPER: forking(
            partial(become_keeper, program=keepers, compositor=compositor)
        ),
        messages.FORK_ACCEPTOR: forking(
            partial(become_acceptor, program=acceptors, pump=pumps)
        ),
        messages.FORK_PUMP: forking(become_pump),
    }


def _become_starter(
    control: int, session: int, host: int, variables: int, broker: int
) -> None:
    """Become the starter of session children, in the forked child."""
    # Late: in the starter, for its children, so that this server's do not have it.
    from broker.session.child import become_session_child, preload
    from broker.session.used_warrants import UsedWarrants

    used = UsedWarrants()

    def carry_out(key: bytes, fds: Sequence[int]) -> None:
        become_session_child(key, fds, host, used)

    preload()
    share()
    starter.become_starter(control, session, variables, broker, carry_out)


def _fork_starter(
    control: int, session: int, host: int, variables: int, broker: int
) -> StartedChild:
    """Fork the starter of session children; close its descriptors here."""
    clients = [int(number) for number in sys.argv[1].split(",")]
    run = partial(_become_starter, control, session, host, variables, broker)
    share()
    started = fork_child(run, partial(fdpass.close_all, clients))
    fdpass.close_all([control, session, host, variables, broker])
    return started


def prepare(_missing: str) -> Forking:
    """Compile the filters of all, and fork the starter; return how helpers are forked.

    Arguments: the numbers of our sockets; the path of the compositor's; in a broker's
    first one also the numbers of the pipes for the filters of authority and viewer, of
    the starter's sockets, of the file with its variables, which this process never reads,
    and of the pidfd of the broker's first process.
    """
    numbers = [int(number) for number in sys.argv[3:]]
    others: dict[int, Compile] = {}
    if numbers:
        authority, viewer, *numbers = numbers
        others = {viewer: partial(_of_viewer, os.getppid()), authority: _of_authority}
    filters = from_child(_of_children, others)
    present = _fork_starter(*numbers) if numbers else None
    return Forking(_starts(filters, sys.argv[2]), present)
