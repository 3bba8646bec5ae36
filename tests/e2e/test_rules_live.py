"""Rules in a running broker, with a real machine: asked by the dialog, cut by a file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.core.limits import wayland as wayland_limits
from broker.ipc.control.api import (
    GrantRevokeRequest,
    Nothing,
    QuestionAnswerRequest,
    RunRequest,
)
from broker.ipc.control.methods import ANSWER, GRANT_LIST, GRANT_REVOKE, PENDING, RUN
from tests.kit.eventually import eventually
from tests.kit.prompting import Hands
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.world import record, world

ASK = "vitrail.Display * app @adminvm ask remember=session\n"


def write_rule(w, name, text):
    """As most editors save: a new file, renamed over the old one."""
    folder = w.paths.config[0] / "policy.d"
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{name}.swp"
    new.write_text(text)
    new.rename(folder / name)


async def pending(w):
    async with w.client() as client:
        return (await client.call(PENDING, Nothing())).questions


async def test_a_window_that_is_asked_about_and_then_revoked():
    async with world({"app": record("persistent")}, start=False) as w:
        write_rule(w, "30-mine.policy", ASK)
        await w.start()
        hands = Hands(w.comp)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.run, "app", "foot", "-T", "asked", "sleep", "1000")
            (question,) = await eventually(lambda: pending(w), deadline=90)
            assert (question.sandbox, question.service) == ("app", "vitrail.Display")
            assert question.words == "to show windows on this screen"
            assert question.keeps == ["once", "session"]
            agent = await eventually(lambda: agent_of(w))
            # Typed at once, into the dialog that has just come: nothing.
            hands.type("allow")
            assert await pending(w)
            await hands.awaits_dialog()
            hands.type(await hands.read_yes_text())
            await wait_window(w.comp, title="asked")
        asked = await w.only_event("question.asked")
        answered = await w.only_event("question.answered")
        (decided,) = [e for e in w.events("decision") if e.get("question")]
        assert asked["question"] == answered["question"] == decided["question"]
        assert (decided["verdict"], decided["answered_by"]) == ("allow", "person")
        assert decided["rule"].endswith("30-mine.policy:1")
        await a_broken_file_changes_nothing(w)
        await a_revocation_cuts_at_once(w)
        await a_killed_broker_takes_its_agent_along(w, agent)
        hands.close()


async def agent_of(w):
    found = [p.pid for p in (await w.status()).processes if p.role == "prompt"]
    return found[0] if found else 0


async def a_broken_file_changes_nothing(w):
    """It is said in the status, and a window that is there stays."""
    digest = (await w.status()).policy.digest
    write_rule(w, "20-broken.policy", "vitrail.Display * * * deny\nnonsense\n")
    await w.wait_event("policy.refused")
    status = await w.status()
    assert status.policy.digest == digest
    assert "20-broken.policy:2" in status.policy.problems[0]
    assert "remain in force" in status.policy.problems[1]
    assert windows(await w.comp.tree())
    (w.paths.config[0] / "policy.d" / "20-broken.policy").unlink()

    async def mended():
        return not (await w.status()).policy.problems

    await eventually(mended)


async def a_revocation_cuts_at_once(w):
    began = trio.current_time()
    write_rule(w, "20-no.policy", "# why\nvitrail.Display * app @adminvm deny\n")
    cut = await w.wait_event("decision", outcome="cut")
    took = trio.current_time() - began
    assert cut["rule"].endswith("20-no.policy:2")
    assert cut["verdict"] == "deny"

    async def no_window():
        return not windows(await w.comp.tree())

    await eventually(no_window)
    print(f"cut {took:.2f} s after the file was there")
    assert (await w.status()).sandboxes, "only its windows went"


async def a_killed_broker_takes_its_agent_along(w, agent):
    assert Path(f"/proc/{agent}").exists()
    os.kill(await w.broker_pid(), signal.SIGKILL)

    async def gone():
        return not Path(f"/proc/{agent}").exists()

    await eventually(gone)
    # The rules that were in force are so again, also when the files are broken.
    write_rule(w, "25-broken.policy", "nonsense\n")
    await w.start()
    status = await w.status()
    assert status.policy.kept
    assert "25-broken.policy:1" in status.policy.problems[0]
    await w.stop()


@pytest.mark.long
async def test_without_a_dialog_brokerctl_answers_and_takes_back():
    """The same from a terminal: pending, answer, grants."""
    async with world({"app": record("persistent")}, start=False) as w:
        write_rule(w, "30-mine.policy", ASK)
        await w.start()
        async with trio.open_nursery() as nursery, w.client() as client:
            nursery.start_soon(w.run, "app", "foot", "-T", "asked", "sleep", "1000")
            (question,) = await eventually(lambda: pending(w), deadline=90)
            request = QuestionAnswerRequest(id=question.id, allow=True, keep="session")
            await client.call(ANSWER, request)
            await wait_window(w.comp, title="asked")
            (grant,) = (await client.call(GRANT_LIST, Nothing())).grants
            assert (grant.sandbox, grant.left, grant.keep) == ("app", None, "session")
            assert grant.live >= 1
            # A second program needs no second answer.
            again = RunRequest(record="app", argv=["foot", "-T", "again"])

            async def ignore(item):
                del item

            await client.call(RUN, again, ignore)
            await wait_window(w.comp, title="again")
            ended = await client.call(GRANT_REVOKE, GrantRevokeRequest(id=grant.id))
            assert [one.id for one in ended.grants] == [grant.id]

            async def no_window():
                return not windows(await w.comp.tree())

            await eventually(no_window)
            assert w.events("grant.ended")[0]["grant"] == grant.id
        await w.stop()


@pytest.mark.long
async def test_a_gesture_is_a_key_in_a_window_of_the_sandbox():
    """Neither in another sandbox's window, nor by the guest itself."""
    async with world({"app": record("persistent")}) as w:
        sandbox = await w.window("app", "first")
        hands = Hands(w.comp)
        write_rule(
            w, "30-mine.policy", "vitrail.Display * app @adminvm allow gesture=5s\n"
        )

        async def in_force():
            return (await w.status()).policy.rules == 5

        await eventually(in_force)
        assert windows(await w.comp.tree()), "the permitted stream goes on"
        with pytest.raises(UpstreamError, match="no input in a window"):
            await w.run("app", "foot", "-T", "second", "sleep", "1000")
        # The window came by itself: keys count once it has had the keyboard for so long.
        await trio.sleep(wayland_limits.WAYLAND_CHOSEN_SECONDS)
        hands.press("x")
        await w.run("app", "foot", "-T", "third", "sleep", "1000")
        await wait_window(w.comp, title="third")
        refused = w.events("decision", verdict="deny", sandbox=sandbox)
        assert refused[-1]["detail"]["gesture"] == 5
        hands.close()
        await w.stop()
