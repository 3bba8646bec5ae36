"""The control of a VMM by its HTTP API.

What a request is and what a reply means is the VMM's own: a ``Dialect`` each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.processes.tracked import Tracked
from broker.host.vmm.control import CONSOLE_SOCKET, Connect, Control, GuestEvents
from broker.host.vmm.monitors.api import ApiClient
from broker.host.vmm.monitors.console import open_console
from broker.host.vmm.monitors.http import VmmReply, VmmRequest
from broker.host.vmm.running import Vm
from broker.host.vmm.vm_state import API_SOCKET


@dataclass(frozen=True)
class Dialect:
    """The requests of one VMM."""

    info: VmmRequest
    read_state: Callable[[VmmReply], str]
    """Takes the reply to ``info``.  Raises UpstreamError."""
    starting: Mapping[str, VmmRequest]
    """By state: what lets a machine run that is not running yet."""
    press_power: VmmRequest
    quit: VmmRequest | None
    """None: there is no such request, and no state to save."""
    require_done: Callable[[VmmRequest, VmmReply], None]
    """Raises UpstreamError for a refusal."""
    guest_end: str
    """Why the VMM ended, when its exit code is 0."""


class ApiControl:
    """Implements ``launch.microvm.control.Control``."""

    def __init__(self, dialect: Dialect, api: ApiClient, vmm: Tracked) -> None:
        self._dialect = dialect
        self._api = api
        self._vmm = vmm

    async def ask(
        self, request: VmmRequest, *, deadline: float | None = None
    ) -> VmmReply:
        """Send a request to the VMM.  Raises UpstreamError when it is refused."""
        deadline = limits.VMM_ANSWER_SECONDS if deadline is None else deadline
        reply = await self._api.call(request, deadline=deadline)
        self._dialect.require_done(request, reply)
        return reply

    async def run(self) -> None:
        """Wait for the end: there is no connection to be served."""
        await self._vmm.wait()

    async def cont(self) -> None:
        """Start the machine, or resume it; does nothing if it runs."""
        state = self._dialect.read_state(await self.ask(self._dialect.info))
        if state in self._dialect.starting:
            await self.ask(self._dialect.starting[state])

    async def press_power(self) -> None:
        """Ask the guest to end."""
        await self.ask(self._dialect.press_power, deadline=limits.VM_QUIT_SECONDS)

    async def quit(self) -> None:
        """End the VMM."""
        if self._dialect.quit is None:
            self._vmm.kill()
        else:
            await self.ask(self._dialect.quit, deadline=limits.VM_QUIT_SECONDS)

    async def close(self) -> None:
        """Do nothing: no connection is kept."""

    def guest_end(self, code: int | None) -> str:
        """Return the reason of a VMM that ended by itself."""
        return self._dialect.guest_end if code == 0 else ""


def connect_by_api(dialect: Dialect) -> Connect:
    """Return a function that waits for a VMM's API and opens its console."""

    async def connect(
        directory: Path, vmm: Tracked, events: GuestEvents
    ) -> tuple[Control, trio.abc.ReceiveStream]:
        del events  # none exist: see ``guest_end``
        api = ApiClient(directory / API_SOCKET, vmm)
        await api.wait_ready()
        control = ApiControl(dialect, api, vmm)
        return control, open_console(directory / CONSOLE_SOCKET)

    return connect


def api_of(vm: Vm) -> ApiControl:
    """Return the API of a machine that has one.  Raises UpstreamError."""
    if not isinstance(vm.control, ApiControl):
        raise UpstreamError(f"{vm.vmm.role} does not have an HTTP API")
    return vm.control
