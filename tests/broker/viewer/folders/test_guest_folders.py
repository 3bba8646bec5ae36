"""What a guest is asked about folders, and what its answers can do."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import transfer as limits
from broker.host_and_viewer.sandbox_names import require_running
from broker.ipc import agent
from broker.viewer.folders.guest_folders import GuestFolders
from policy.records.mounts.user_files import Mount


class Asked:
    """An agent whose answer is ``answers``, made for each message; None: silence."""

    def __init__(self, version=agent.VERSION):
        self.version = version
        self.messages = []
        self.warnings = []
        self.suspended = False
        self.answers = lambda message: agent.AgentMounted(message.place, True)
        self.folders = GuestFolders(
            self.order, lambda: self.version, self.require_running, self.warnings.append
        )

    def require_running(self):
        require_running("work", suspended=self.suspended)

    async def order(self, message):
        await trio.lowlevel.checkpoint()
        self.messages.append(message)
        answer = self.answers(message)
        if answer is not None:
            self.folders.take(answer)


def no(message):
    return agent.AgentMounted(message.place, False, "busy\x1b[2J")


async def test_a_guest_mounts_and_unmounts():
    asked = Asked()
    await asked.folders.mount(agent.AgentMount(2, "docs", True))
    await asked.folders.unmount(2)
    await asked.folders.revoke(2)
    assert asked.messages == [
        agent.AgentMount(2, "docs", True),
        agent.AgentUnmount(2, False),
    ]


async def test_what_a_guest_cannot_do_is_shown_escaped():
    asked = Asked()
    asked.answers = no
    with pytest.raises(UpstreamError, match=r"busy") as failed:
        await asked.folders.mount(agent.AgentMount(0, "docs", False))
    assert "\x1b" not in str(failed.value)
    asked.answers = lambda message: agent.AgentMounted(message.place, True)
    await asked.folders.mount(agent.AgentMount(0, "docs", False))
    asked.answers = no
    with pytest.raises(RefusedError, match="busy"):
        await asked.folders.unmount(0)
    await asked.folders.revoke(0)
    assert asked.messages[-1] == agent.AgentUnmount(0, True)


async def test_before_the_agent_a_folder_is_noted_and_asked_for_when_it_comes():
    asked = Asked(version=None)
    asked.answers = lambda message: None
    await asked.folders.mount(agent.AgentMount(1, "docs", False))
    assert asked.messages == []
    asked.version = agent.VERSION
    await asked.folders.agent_up()
    assert asked.messages == [agent.AgentMount(1, "docs", False)]
    asked.folders.take(agent.AgentMounted(1, False, "no such device"))
    assert "no such device" in asked.warnings[0]
    asked.folders.take(agent.AgentMounted(7, False, "not asked for"))
    assert len(asked.warnings) == 1


async def test_an_old_agent_is_not_asked():
    asked = Asked(version=agent.FOLDERS_VERSION - 1)
    with pytest.raises(UpstreamError, match="too old"):
        await asked.folders.mount(agent.AgentMount(0, "docs", False))
    assert asked.messages == []


async def test_a_silent_guest_delays_the_end_by_seconds(autojump_clock):
    asked = Asked()
    await asked.folders.mount(agent.AgentMount(0, "docs", False))
    asked.answers = lambda message: None
    began = trio.current_time()
    await asked.folders.revoke(0)
    assert trio.current_time() - began == pytest.approx(limits.FOLDER_REVOKE_SECONDS)
    with pytest.raises(UpstreamError, match="did not answer"):
        await asked.folders.mount(agent.AgentMount(0, "docs", False))
    assert asked.folders._asked == {}


async def test_folder_request_refused_while_suspended(autojump_clock):
    """The caller does not wait for an agent that cannot answer."""
    guest = Asked()
    await guest.folders.mount(agent.AgentMount(0, "docs", False))
    guest.suspended = True
    guest.answers = lambda message: None
    with pytest.raises(RefusedError, match="suspended"):
        await guest.folders.mount(agent.AgentMount(1, "more", False))
    with pytest.raises(RefusedError, match="suspended"):
        await guest.folders.unmount(0)
    await guest.folders.revoke(0)
    assert len(guest.messages) == 1
    guest.suspended = False
    await guest.folders.agent_up()
    assert len(guest.messages) == 1, "neither folder is mounted later"


async def test_two_requests_for_one_place_do_not_mix(autojump_clock):
    asked = Asked()
    asked.answers = lambda message: None
    async with trio.open_nursery() as nursery:
        mount = partial(asked.folders.mount, agent.AgentMount(0, "docs", False))
        nursery.start_soon(mount)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(UpstreamError, match="busy"):
            await mount()
        nursery.cancel_scope.cancel()


async def test_memory_of_a_record_is_asked_for_when_the_agent_comes():
    asked = Asked(version=None)
    asked.folders.have_memory([Mount("memory", Path("/srv/x"), 1 << 20, None, False)])
    assert asked.messages == []
    asked.version = agent.VERSION
    await asked.folders.agent_up()
    assert asked.messages == [
        agent.AgentMount(agent.FIRST_MEMORY, "x", True, at="/srv/x", size=1 << 20)
    ]


async def test_an_agent_without_mounts_gets_none():
    asked = Asked(version=agent.MOUNTS_VERSION - 1)
    for more in ({"at": "/srv/x"}, {"disk": True}):
        with pytest.raises(UpstreamError, match="too old"):
            await asked.folders.mount(agent.AgentMount(0, "docs", False, **more))
    assert asked.messages == []
