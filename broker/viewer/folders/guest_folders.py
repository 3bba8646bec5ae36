"""Folders inside a micro VM: its agent is asked to mount and unmount them.

The guest's answers are for the user's information.  What a guest can read or write
is decided by its virtiofsd alone, which belongs to the host part.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.limits import transfer as limits
from broker.ipc import agent
from policy.records.mounts.user_files import Mount

_Message = agent.AgentMount | agent.AgentUnmount


class GuestFolders:
    """What one guest has been asked to mount, by place.

    ``order`` sends to its agent; ``version`` is the agent's, None while there is none;
    ``require_running`` raises RefusedError while the guest cannot answer;
    ``warn`` gets a sentence when a folder of the record could not be mounted.
    """

    def __init__(
        self,
        order: Callable[[agent.ToGuest], Awaitable[None]],
        version: Callable[[], int | None],
        require_running: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self._order = order
        self._version = version
        self._require_running = require_running
        self.warn = warn
        self._wanted: dict[int, agent.AgentMount] = {}
        self._asked: dict[int, trio.Event] = {}
        self._answers: dict[int, agent.AgentMounted] = {}

    def have_memory(self, mounts: Sequence[Mount]) -> None:
        """Have the guest mount a record's file systems in memory once its agent is there."""
        for place, mount in enumerate(mounts, agent.FIRST_MEMORY):
            at, size = str(mount.at), mount.size
            name = mount.at.name
            message = agent.AgentMount(place, name, write=True, at=at, size=size)
            self._wanted[place] = message

    async def mount(self, message: agent.AgentMount) -> None:
        """Have the guest mount a folder; note it if the agent is not there yet.

        Raises UpstreamError when the guest cannot, RefusedError if it is suspended.
        """
        place, name = message.place, message.name
        self._wanted[place] = message
        if self._version() is None:
            return
        failed = ""
        try:
            failed = await self._ask(message, limits.FOLDER_GUEST_SECONDS)
        except BaseException:
            self._wanted.pop(place, None)
            raise
        if failed:
            self._wanted.pop(place, None)
            raise UpstreamError(
                f"the guest could not mount the folder '{name}': {failed}"
            )

    async def unmount(self, place: int) -> None:
        """Have the guest unmount a folder.

        Raises RefusedError where its files are open, or if it is suspended.
        """
        if place not in self._wanted or self._version() is None:
            return
        message = agent.AgentUnmount(place, force=False)
        failed = await self._ask(message, limits.FOLDER_GUEST_SECONDS)
        if failed:
            raise RefusedError(
                f"the guest could not unmount the folder: {failed}",
                hint="close the folder's files in the sandbox and try again; to stop the sandbox "
                "instead, run 'brokerctl unshare --force SANDBOX FOLDER'",
            )
        self._wanted.pop(place, None)

    async def revoke(self, place: int) -> None:
        """Have the guest unmount a folder by force; return in any case."""
        if self._wanted.pop(place, None) is None or self._version() is None:
            return
        message = agent.AgentUnmount(place, force=True)
        try:
            # guard: a guest delays the end of a folder by seconds only
            await self._ask(message, limits.FOLDER_REVOKE_SECONDS)
        except VitrailError:
            return  # its server is ended next, which needs no answer

    async def agent_up(self) -> None:
        """Ask for all of them: the agent is there, for the first time or again."""
        for message in list(self._wanted.values()):
            await self._send(message)

    def take(self, untrusted: agent.AgentMounted) -> None:
        """Handle the agent's answer to a mount or unmount; warn of a failure."""
        asked = self._asked.get(untrusted.place)
        if asked is not None:
            self._answers[untrusted.place] = untrusted
            asked.set()
        elif not untrusted.ok and untrusted.place in self._wanted:
            name = printable(self._wanted[untrusted.place].name, 80)
            detail = printable(untrusted.detail, 200)
            self.warn(f"the guest could not mount the folder {name}: {detail}")

    async def _ask(self, message: _Message, seconds: float) -> str:
        """Ask the guest; return why it could not, or nothing.

        Raises RefusedError, UpstreamError.
        """
        place = message.place
        # guard: no request for a folder waits for a suspended sandbox
        self._require_running()
        if place in self._asked:
            raise UpstreamError("the guest is busy with this folder")
        answered = self._asked[place] = trio.Event()
        try:
            with trio.move_on_after(seconds):
                await self._send(message)
                await answered.wait()
        finally:
            del self._asked[place]
            answer = self._answers.pop(place, None)
        if answer is None:
            raise UpstreamError(f"the guest agent did not answer within {seconds:g} s")
        return "" if answer.ok else printable(answer.detail, 200) or "no reason"

    async def _send(self, message: _Message) -> None:
        """Send a message about a folder to the guest's agent.

        Raises UpstreamError if the agent is too old.
        """
        version, needed = self._version(), agent.FOLDERS_VERSION
        if isinstance(message, agent.AgentMount):
            if message.stream:
                needed = agent.STREAMED_FOLDERS_VERSION
            if message.at or message.disk:
                needed = agent.MOUNTS_VERSION
        if version is None:
            raise UpstreamError("the guest agent is not connected")
        if version < needed:
            raise UpstreamError(
                "the guest agent is too old to support shared folders",
                hint="run 'brokerctl image build --force IMAGE' for the sandbox's image, and "
                "restart the sandbox",
            )
        await self._order(message)
