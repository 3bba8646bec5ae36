"""Control methods of a viewer: programs, windows, questions, clipboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from broker.control import api
from broker.control.methods import Elsewhere
from broker.services.control import (
    WITHOUT_FOLDERS,
    WITHOUT_LAUNCHES,
    Shared,
    SharedControl,
)
from broker.viewer import questions
from broker.viewer.clipboard.status import clipboard_status
from broker.viewer.devices.control import DeviceControl
from broker.viewer.devices.desk import DeviceDesk
from broker.viewer.part import AuthorityParts
from broker.viewer.role import ViewerRole
from broker.viewer.runner import Runner
from broker.viewer.windows import WindowsPart


@dataclass(frozen=True)
class PersonParts:
    """The parts of a broker that has the person's screen."""

    runner: Runner
    windows: WindowsPart
    viewer: ViewerRole
    deciding: AuthorityParts


class PersonControl:
    """Programs, windows, questions and clipboard, for every role with a screen."""

    _person: PersonParts

    # -- running ---------------------------------------------------------------

    async def run(
        self,
        caller: api.Caller,
        request: api.RunRequest,
        emit: api.Emit[api.RunItem],
    ) -> api.RunItem:
        """Run a program; returns ``started``, or ``exited`` if asked to wait."""
        del caller
        return await self._person.runner.run(request, emit)

    async def run_input(self, caller: api.Caller, request: api.RunInputRequest) -> None:
        """Pass input to a program."""
        del caller
        await self._person.runner.write_input(request)

    async def run_resize(
        self, caller: api.Caller, request: api.RunResizeRequest
    ) -> None:
        """Set the size of a program's terminal."""
        del caller
        await self._person.runner.resize(request)

    async def open_objects(
        self,
        caller: api.Caller,
        request: api.OpenRequest,
        emit: api.Emit[api.OpenItem],
    ) -> api.OpenItem:
        """Open or copy the person's own; returns where."""
        del caller
        return await self._person.viewer.person.open(request, emit)

    # -- windows ---------------------------------------------------------------

    async def windows(self, request: api.WindowsRequest) -> api.WindowsAnswer:
        """The windows of all sandboxes, or of one."""
        return await self._person.windows.listed(request)

    async def close_window(
        self, caller: api.Caller, request: api.WindowCloseRequest
    ) -> None:
        """End a window, kindly or not."""
        await self._person.windows.close(caller, request)

    # -- questions and grants --------------------------------------------------------

    async def pending(self) -> api.PendingAnswer:
        """Return the questions that wait for the person."""
        return questions.pending(self._person.deciding.questions)

    async def answer(
        self, caller: api.Caller, request: api.QuestionAnswerRequest
    ) -> None:
        """Answer a question in the person's place."""
        questions.answer(
            self._person.deciding.questions, request, f"process {caller.pid}"
        )

    async def grants(self) -> api.GrantsAnswer:
        """Answers that are remembered."""
        return questions.grants(self._person.deciding.authority.decider)

    async def revoke(
        self, caller: api.Caller, request: api.GrantRevokeRequest
    ) -> api.GrantsAnswer:
        """Take grants back; returns those that ended."""
        return await questions.revoke(
            self._person.deciding.authority.decider,
            request,
            f"taken back by process {caller.pid}",
        )

    # -- the clipboard --------------------------------------------------------------

    async def clipboard(self) -> api.ClipboardStatus:
        """The held and the offered content, and the chords."""
        return clipboard_status(self._person.viewer.clipboard)

    async def clear_clipboard(self, caller: api.Caller) -> None:
        """Wipe it, and take back the pasted content."""
        del caller
        await self._person.viewer.clipboard.clear()

    async def choose_chords(self, caller: api.Caller) -> api.ClipboardStatus:
        """Read again which chords the person wants."""
        del caller
        await self._person.viewer.clipboard.choose_again()
        return clipboard_status(self._person.viewer.clipboard)


_LEASES = Elsewhere(
    "this broker is a viewer: it gives no leases",
    "type it on the host, which owns the machines",
)
ELSEWHERE: Mapping[str, Elsewhere] = MappingProxyType(
    {
        "LeaseAcquire": _LEASES,
        "MachineEvent": _LEASES,
        "LeaseRelease": _LEASES,
        **WITHOUT_FOLDERS,
        **WITHOUT_LAUNCHES,
    }
)
"""The methods of a broker that owns machines."""


class ViewerControl(PersonControl, DeviceControl, SharedControl):
    """The control methods of the viewer where host and viewer are two machines."""

    elsewhere = ELSEWHERE

    def __init__(self, shared: Shared, person: PersonParts, desk: DeviceDesk) -> None:
        super().__init__(shared)
        self._person = person
        self._desk = desk
