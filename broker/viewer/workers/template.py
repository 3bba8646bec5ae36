"""The template process (``programs.template``) as the broker sees it."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import trio

import broker
from broker.core.errors import InternalError, PeerError, SetupError, UpstreamError
from broker.core.names import SandboxName
from broker.helpers.process.pidfd import PidfdProcess, describe_end
from broker.helpers.process.spawn import Child, spawn
from broker.ipc import fdpass
from broker.ipc import keeper as keeper_messages
from broker.ipc.channel import Channel, OrderChannel, order_pair, pair

_MODULE = "broker.programs.template"


class TemplateError(UpstreamError):
    """The template died; another one can be started."""


@dataclass(eq=False)
class Fate:
    """How a keeper ended, as far as the template lived to report it."""

    code: int | None = None
    known: trio.Event = field(default_factory=trio.Event)

    def describe(self) -> str:
        """Say how it ended: "was killed by SIGKILL", or "died"."""
        return "died" if self.code is None else describe_end(self.code)


@dataclass(frozen=True)
class Forked:
    """A keeper that was forked for us; the holder of this owns its content."""

    keeper: PidfdProcess
    keeper_channel: Channel
    worker_channel: OrderChannel
    fate: Fate


@dataclass(eq=False)
class _Order:
    answered: trio.Event = field(default_factory=trio.Event)
    keeper: PidfdProcess | None = None
    refused: str = ""
    given_up: bool = False
    """No task waits for the answer any more."""
    fate: Fate = field(default_factory=Fate)


class WorkerTemplate:
    """One run of the template process; ``dead`` when it has to be replaced."""

    def __init__(self) -> None:
        """Start the process.

        Raises SetupError when it cannot be executed, OSError when this machine
        has no room for it.
        """
        self._channel, theirs = pair()
        self.dead = False
        self._numbers = 0
        self._orders: dict[int, _Order] = {}
        self._fates: dict[int, Fate] = {}
        self._sending = trio.Lock()
        self._gone = trio.Event()
        try:
            with theirs:
                self.child = _spawn(theirs.fileno())
        except BaseException:
            self._channel.close()
            raise

    async def run(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Read its answers until it dies; reports itself started when warm.

        Raises SetupError when it dies before it is warm.
        """
        warm = False
        try:
            while True:
                got = await self._channel.receive(fd_limit=1)
                if not got.data:
                    break
                message = keeper_messages.decode_from_template(got.data)
                if isinstance(message, keeper_messages.TemplateReady):
                    warm = True
                    task_status.started()
                else:
                    self._take(message, got.fds)
        except trio.ClosedResourceError:
            return  # our own close()
        except PeerError as error:
            # A descriptor of it did not fit into our table, so its answer is
            # lost: end it; the caller that waits for the answer asks the next one.
            if not warm:
                raise SetupError(str(error)) from error
            return
        finally:
            await self._died()
        if not warm:
            raise SetupError(
                f"the template of the workers ended at once, "
                f"with code {self.child.returncode}",
                hint="its last words are in the broker's standard error",
            )

    async def wait_gone(self) -> None:
        """Wait until the process has ended."""
        await self._gone.wait()

    async def _died(self) -> None:
        self.dead = True
        self._channel.close()
        self.child.kill()
        with trio.CancelScope(shield=True):
            await self.child.wait()
        for order in self._orders.values():
            order.answered.set()
        for fate in self._fates.values():
            fate.known.set()
        self._gone.set()

    def _take(
        self, message: keeper_messages.FromTemplate, fds: tuple[int, ...]
    ) -> None:
        match message:
            case keeper_messages.WorkerForked(number, pid):
                order = self._orders.pop(number)
                self._fates[number] = order.fate
                if order.given_up:
                    fdpass.close_all(fds)  # its channels are closed: it ends
                else:
                    order.keeper = PidfdProcess(pid, fds[0])
                    order.answered.set()
            case keeper_messages.ForkFailed(number, reason):
                order = self._orders.pop(number)
                order.refused = reason
                order.answered.set()
            case keeper_messages.KeeperEnded(number, code):
                fate = self._fates.pop(number)
                fate.code = code
                fate.known.set()
            case keeper_messages.TemplateReady():
                fdpass.close_all(fds)
                raise InternalError("the template is warm twice")

    async def fork(
        self,
        display: socket.socket,
        compositor: str,
        *,
        sandbox: SandboxName,
        allow_unjailed: bool,
        clients: int,
    ) -> Forked:
        """Have a keeper forked.  Raises TemplateError, UpstreamError."""
        keeper_channel, keeper_end = pair()
        try:
            worker_channel, worker_end, worker_pipe = order_pair()
        except BaseException:
            keeper_channel.close()
            keeper_end.close()
            raise
        self._numbers += 1
        order = self._orders[self._numbers] = _Order()
        fork = keeper_messages.Fork(
            self._numbers, sandbox, compositor, allow_unjailed, clients
        )
        try:
            try:
                fds = [sock.fileno() for sock in (keeper_end, worker_end, display)]
                async with self._sending:
                    await self._channel.send(
                        keeper_messages.encode(fork), [*fds, worker_pipe]
                    )
            finally:
                keeper_end.close()
                worker_end.close()
                os.close(worker_pipe)
            await order.answered.wait()
        except (OSError, trio.ClosedResourceError) as error:
            raise TemplateError("the template of the workers died") from error
        finally:
            if order.keeper is None:
                # Closing these ends a keeper whose birth we do not hear of.
                order.given_up = True
                keeper_channel.close()
                worker_channel.close()
        if order.refused:
            raise UpstreamError(f"no process for a worker: {order.refused}")
        if order.keeper is None:
            raise TemplateError("the template of the workers died")
        return Forked(order.keeper, keeper_channel, worker_channel, order.fate)

    async def close(self) -> None:
        """End it; returns when it is gone."""
        self._channel.close()
        await self._gone.wait()


def _spawn(control: int) -> Child:
    # The code that runs here, and no other: no user site, not the current
    # directory, no variables but ours.
    flags = ["-s", "-P"]
    if sys.dont_write_bytecode:
        flags.append("-B")
    if sys.pycache_prefix:
        flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return spawn(
        [sys.executable, *flags, "-m", _MODULE, str(control)],
        name="vitrail-template",
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(Path(broker.__file__).parents[1]),
            "VITRAIL_DEBUG": os.environ.get("VITRAIL_DEBUG", ""),
        },
        pass_fds=[control],
    )
