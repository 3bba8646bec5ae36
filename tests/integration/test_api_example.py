"""docs/examples/follow.py, the example program of docs/api.md, beside a real broker."""

from __future__ import annotations

import trio

from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.following import follow, until
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = PID_NAMESPACES
ASKED = """class = "persistent"
display = "allow"
[launch]
kind = "bwrap"
command = ["foot", "-T", "asked", "sleep", "1000"]
"""
RULE = "vitrail.Display * asked @adminvm ask remember=session\n"


async def test_events_are_sent_as_they_are_recorded_and_only_those_asked_for():
    async with world(image=False) as w:
        async with follow(w, "lease", "decision") as lines:
            assert await anext(lines) == "following"
            words = ("run", "-q", "--bwrap", "--", "true")
            answer = await brokerctl(*words, env=w.environ)
            assert answer.code == 0, answer
            seen = await until(lines, "lease.end")
            assert seen[0].startswith("lease.begin box-")
            kinds = {line.split()[0] for line in seen}
            assert kinds <= {"lease.begin", "decision", "lease.end"}
        # The subscriber has gone; the broker serves others.
        answer = await brokerctl(*words, env=w.environ)
        assert answer.code == 0, answer


async def test_windows_are_sent_again_when_they_change():
    words = ("run", "-q", "--bwrap", "--", "foot", "-T", "boxed", "sleep", "1000")
    async with world(image=False) as w, follow(w, "windows") as lines:
        assert await anext(lines) == "no windows"
        async with running(*words, env=w.environ):
            await wait_window(w.comp, title="boxed")
            line = ""
            while "boxed" not in line:
                line = await anext(lines)
            assert line.startswith("box-")
        while line != "no windows":
            line = await anext(lines)


async def ask_for_window(w):
    """Start the box whose windows are asked about; returns its question's number."""

    async def waits():
        told = await brokerctl("pending", "--json", env=w.environ)
        return [one for found in told.objects for one in found["questions"]]

    (question,) = await eventually(waits, deadline=60)
    assert question["sandbox"] == "asked"
    return str(question["id"])


async def test_questions_decisions_and_grants_are_sent_with_starts_and_ends():
    """Each kind that docs/api.md names, but pastes (e2e/test_clipboard.py)."""
    kinds = ("question", "decision", "grant", "lease", "program", "policy")
    async with world(start=False, image=False) as w:
        folder = w.paths.config[0]
        for place, text in (
            ("policy.d/30-mine.policy", RULE),
            ("sandboxes.d/asked.toml", ASKED),
        ):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text(text)
        await w.start()
        async with follow(w, *kinds) as lines:
            with trio.fail_after(120):
                assert await anext(lines) == "following"
                async with running("run", "asked", env=w.environ):
                    asked = await until(lines, "question.asked")
                    assert asked[-1] == "question.asked asked vitrail.Display"
                    assert "lease.begin asked" in asked
                    number = await ask_for_window(w)
                    words = ("answer", number, "allow", "--keep", "session")
                    told = await brokerctl(*words, env=w.environ)
                    assert told.code == 0, told
                    (answered, *_, made) = await until(lines, "grant.made")
                    assert answered == "question.answered asked vitrail.Display allow"
                    assert made == "grant.made asked vitrail.Display allow"
                    await wait_window(w.comp, title="asked")
                    told = await brokerctl("grants", "list", "--json", env=w.environ)
                    ((grant,),) = [found["grants"] for found in told.objects]
                    words = ("grants", "revoke", str(grant["id"]))
                    told = await brokerctl(*words, env=w.environ)
                    assert told.code == 0, told
                    ended = await until(lines, "grant.ended")
                    assert ended[-1] == "grant.ended asked vitrail.Display"
                    # Its only window is cut, so its program ends.
                    rest = await until(lines, "lease.end")
                    assert rest[-1] == "lease.end asked"
