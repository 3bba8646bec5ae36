"""Two sandboxes with different labels, a real broker, a real compositor, a person.

The sandboxes are containers, leased by a foreign launcher, whose applications
speak Wayland to the worker's filter; the person is a keyboard.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import pytest
import trio

from broker.ipc.control.api import Nothing, QuestionAnswerRequest
from broker.ipc.control.methods import ANSWER, CLIPBOARD, CLIPBOARD_CLEAR, PENDING
from tests.integration.test_pulse_indicator import screen
from tests.kit.brokerctl import brokerctl
from tests.kit.clipboard.person import Person
from tests.kit.container import DIRECT, container
from tests.kit.eventually import eventually
from tests.kit.following import follow, until
from tests.kit.listening import takes_connections
from tests.kit.notified import no_other_server
from tests.kit.prompting import Hands
from tests.kit.sound.servers import started
from tests.kit.wayland.compositor import short_directory, wait_window
from tests.kit.world import world

SECRET = "the password is hunter2"
LABELS = {"work": "blue", "personal": "green", "evil": "red"}
SCRIPT = """\
export XDG_RUNTIME_DIR=/tmp
foot -o tweak.max-shm-pool-size-mb=0 -T {0} sleep 1000 &
cd /tmp/broker
while :; do
  if [ -e copy ]; then
    # wl-copy ends before its selection has passed waypipe and the filter.
    until wl-copy < copy && timeout 20 wl-paste -l | grep -q .; do sleep 0.1; done
    rm copy; touch copied
  fi
  if [ -e select ]; then
    until wl-copy -p < select && timeout 20 wl-paste -pl | grep -q .; do sleep 0.1; done
    rm select; touch copied
  fi
  if [ -e middle ]; then
    rm middle; timeout 20 wl-paste -p --no-newline > out.new; mv out.new out
  fi
  if [ -e paste ]; then
    rm paste; timeout 20 wl-paste --no-newline > out.new 2> problem; mv out.new out
  fi
  sleep 0.1
done
"""


class Box:
    """A sandbox that copies and pastes with wl-clipboard."""

    def __init__(self, directory):
        self.directory = directory

    async def copied(self, text, how="copy"):
        """Its own clipboard has this; ``select``: its primary selection."""
        (self.directory / "copied").unlink(missing_ok=True)
        new = self.directory / "copy.new"
        new.write_text(text)
        new.rename(self.directory / how)
        await eventually(lambda: self._there("copied"), deadline=60)

    async def pasted(self, how="paste"):
        """What its own clipboard (``middle``: primary selection) has; or nothing."""
        (self.directory / "out").unlink(missing_ok=True)
        (self.directory / how).touch()
        await eventually(lambda: self._there("out"), deadline=60)
        return (self.directory / "out").read_text()

    async def gets(self, text, how="paste"):
        """Paste until it is this: recorded content is only about to be offered."""

        async def same():
            return await self.pasted(how) == text

        await eventually(same, deadline=60)

    async def _there(self, name):
        return (self.directory / name).exists()


@asynccontextmanager
async def told():
    """A bus on which notifications are kept instead of shown; its address."""
    with short_directory() as place:
        bus = f"unix:path={place}/bus"
        argv = ("dbus-daemon", "--session", "--nofork", f"--address={bus}")
        async with started(*argv, env={**os.environ, **no_other_server(place)}):

            async def there():
                return takes_connections(place / "bus")

            await eventually(there)
            async with screen(bus) as shown:
                yield bus, shown


@asynccontextmanager
async def boxes(rules, *names, records=None, bus=""):
    """A broker with these rules for the paste, a sandbox of each name, a person."""
    extra = {"DBUS_SESSION_BUS_ADDRESS": bus} if bus else None
    async with world(start=False, image=False, extra=extra) as w:
        lines = "".join(f"vitrail.ClipboardPaste * {one}\n" for one in rules)
        w.write_rules(lines)
        await w.start()
        with Person(w) as person:
            async with boxes_of(w, names or ("work", "personal"), records) as made:
                await person.awake()
                yield w, person, made


@asynccontextmanager
async def boxes_of(w, names, records=None):
    """Sandboxes that copy and paste, by their names."""
    records = records or {}
    if not names:
        yield {}
        return
    name = names[0]
    directory = w.base / f"sockets-{name}"
    directory.mkdir(mode=0o700, exist_ok=True)
    (directory / "script").write_text(SCRIPT.format(name))
    async with (
        container(
            w,
            name,
            title=f"[{name}] {name}",
            inside=DIRECT,
            program="sh /tmp/broker/script",
            record=f'{records.get(name, "")}\n[label]\ncolour = "{LABELS[name]}"\n',
        ),
        boxes_of(w, names[1:], records) as rest,
    ):
        yield {name: Box(directory), **rest}


async def status(w):
    async with w.client() as client:
        return await client.call(CLIPBOARD, Nothing())


async def held_from(w, name):
    async def look():
        found = await status(w)
        return found if found.source == name else None

    return await eventually(look, deadline=60)


async def test_two_chords_carry_it_over_once_and_it_is_wiped():
    allow = ["work personal allow max-size=1M"]
    async with (
        told() as (bus, shown),
        boxes(allow, bus=bus) as (w, person, box),
        follow(w, "clipboard") as lines,
    ):
        assert await anext(lines) == "following"
        await box["work"].copied(SECRET)
        assert await box["personal"].pasted() == ""
        await person.copy("work")
        held = await held_from(w, "work")
        assert (held.types, held.size) == (["text/plain"], len(SECRET))
        await person.paste("personal")
        pasted = await w.wait_event("clipboard.pasted", deadline=60)
        assert (pasted["sandbox"], pasted["target"]) == ("work", "personal")
        assert pasted["rule"].endswith("30-mine.policy:1")
        await box["personal"].gets(SECRET)
        now = await status(w)
        assert (now.source, now.size) == ("", 0)
        assert [o.target for o in now.offered] == ["personal"]
        # A second paste has nothing.
        await person.paste("personal")
        ended = await w.wait_event("clipboard.ended", deadline=60)
        assert (ended["outcome"], ended["target"]) == ("refused", "personal")
        # A subscriber is sent each of them (docs/api.md).
        with trio.fail_after(60):
            await until(lines, "clipboard.offered work")
            await until(lines, "clipboard.pasted work")
            await until(lines, "clipboard.ended")
        await the_person_is_told(shown)
        await the_terminal_says_so(w, box)
        everything = str(w.events())
        assert SECRET not in everything
        assert "hunter2" not in everything


async def the_person_is_told(shown):
    """By whatever shows notifications on this desktop."""

    async def three():
        return len(shown) >= 3

    await eventually(three, deadline=60)
    words = [(note[3], note[4]) for note in shown.values()]
    assert words[0] == (
        "Copied 23 bytes of text from work",
        "press Super+Shift+V in a sandbox to paste it once\n(to paste it in your own programs, write the rule: vitrail.ClipboardPaste * work @adminvm ask)\n(copied in the window titled work)",
    )
    assert words[1][0] == "23 bytes of text: work → personal"
    assert "30-mine.policy:1" in words[1][1]
    assert words[2] == (
        "Not pasted: personal",
        "the clipboard is empty, or its content has expired",
    )
    assert "hunter2" not in str(shown)


async def the_terminal_says_so(w, box):
    """``brokerctl clipboard`` and ``audit``; then it is cleared."""
    env = w.environ
    told = await brokerctl("clipboard", "status", "--json", env=env)
    (shown,) = told.objects
    assert (told.code, shown["paste_chord"]) == (0, "Super+Shift+V")
    told = await brokerctl("audit", "--kind", "clipboard", env=env)
    assert "23 B text/plain to personal" in told.out, told
    told = await brokerctl("clipboard", "clear", env=env)
    assert told.code == 0, told
    assert (await status(w)).offered == []
    assert await box["personal"].pasted() == ""


async def test_denied_by_a_rule_nothing_arrives():
    rules = ["work evil deny", "@anyvm @anyvm allow"]
    async with boxes(rules, "work", "evil") as (w, person, box):
        await box["work"].copied(SECRET)
        await person.copy("work")
        await held_from(w, "work")
        await person.paste("evil")
        ended = await w.wait_event("clipboard.ended", deadline=60, outcome="refused")
        assert ended["target"] == "evil"
        assert "30-mine.policy:1" in ended["reason"]
        assert await box["evil"].pasted() == ""
        assert w.events("clipboard.pasted") == []


async def test_asked_by_the_prompt_the_person_says_yes():
    async with boxes(["work personal ask"]) as (w, person, box):
        await box["work"].copied(SECRET)
        await person.copy("work")
        await held_from(w, "work")
        await person.paste("personal")
        hands = Hands(w.comp)

        async def pending():
            async with w.client() as client:
                return (await client.call(PENDING, Nothing())).questions

        (question,) = await eventually(pending, deadline=60)
        assert question.sandbox == "work"
        assert question.targets == ["personal"]
        assert question.words == "to provide the data that you copied in it"

        await hands.awaits_dialog()
        hands.type(await hands.read_yes_text())
        asked = await w.wait_event("question.answered", deadline=60)
        assert (asked["answer"], asked["answered_by"]) == ("allow", "person")
        await w.wait_event("clipboard.pasted", deadline=60)
        # Their keyboard goes, and sway is without one until another types.
        hands.close()
        await person.awake()
        await box["personal"].gets(SECRET)


@pytest.mark.long
async def test_asked_by_the_prompt_the_person_says_no():
    async with boxes(["work personal ask"]) as (w, person, box):
        await box["work"].copied(SECRET)
        await person.copy("work")
        await held_from(w, "work")
        await person.paste("personal")

        async def pending():
            async with w.client() as client:
                return (await client.call(PENDING, Nothing())).questions

        (question,) = await eventually(pending, deadline=60)
        async with w.client() as client:
            await client.call(
                ANSWER, QuestionAnswerRequest(id=question.id, allow=False)
            )
        await w.wait_event("clipboard.ended", deadline=60, outcome="refused")
        await wait_window(w.comp, title="personal")
        assert await box["personal"].pasted() == ""


@pytest.mark.long
@pytest.mark.parametrize("primary", ["rules", "none"])
async def test_the_primary_selection_crosses_where_both_records_allow_it(primary):
    record = f'[clipboard]\nprimary = "{primary}"\n'
    records = {"work": record, "personal": record}
    allow = ["work personal allow"]
    async with boxes(allow, records=records) as (w, person, box):
        await box["work"].copied(SECRET, "select")
        assert await box["personal"].pasted("middle") == ""
        await person.copy("work")
        if primary == "none":
            ended = await w.wait_event("clipboard.ended", deadline=60)
            assert "not copied anything" in ended["reason"]
            return
        await held_from(w, "work")
        await person.paste("personal")
        await w.wait_event("clipboard.pasted", deadline=60)
        await box["personal"].gets(SECRET, "middle")
        await box["personal"].gets(SECRET)
        async with w.client() as client:
            await client.call(CLIPBOARD_CLEAR, Nothing())
        assert await box["personal"].pasted("middle") == ""


# -- the person's own programs --------------------------------------------------------


async def outside(w, *words, text=""):
    """wl-clipboard on the desktop itself; sway lets it without the focus."""
    environ = {**w.comp.environment, "WAYLAND_DISPLAY": str(w.comp.display)}
    with trio.fail_after(60):
        done = await trio.run_process(
            words, stdin=text.encode(), env=environ, capture_stdout=True, check=False
        )
    return done.stdout.decode()


async def test_the_persons_own_clipboard_comes_in_by_the_paste_chord_and_a_rule():
    async with boxes(["@adminvm personal allow"]) as (w, person, box):
        await trio.run_process(
            ["wl-copy", "from my desktop"],
            env={**w.comp.environment, "WAYLAND_DISPLAY": str(w.comp.display)},
        )
        # Not without the chord, and not where no rule says so.
        assert await box["personal"].pasted() == ""
        await person.paste("work")
        await w.wait_event("clipboard.ended", deadline=60, outcome="refused")
        assert await box["work"].pasted() == ""
        await person.paste("personal")
        pasted = await w.wait_event("clipboard.pasted", deadline=60)
        assert (pasted["sandbox"], pasted["target"]) == ("@adminvm", "personal")
        await box["personal"].gets("from my desktop")


async def test_out_by_the_copy_chord_and_a_rule_and_not_in_again_elsewhere():
    rules = ["work @adminvm allow", "@adminvm @anyvm allow", "@anyvm @anyvm deny"]
    async with boxes(rules, "work", "evil") as (w, person, box):
        await box["work"].copied(SECRET)
        assert await outside(w, "wl-paste", "--no-newline") == ""
        await person.copy("work")
        pasted = await w.wait_event("clipboard.pasted", deadline=60)
        assert (pasted["sandbox"], pasted["target"]) == ("work", "@adminvm")

        async def there():
            return await outside(w, "wl-paste", "--no-newline") == SECRET

        await eventually(there, deadline=60)
        assert "x-kde-passwordManagerHint" in await outside(w, "wl-paste", "-l")
        async with w.client() as client:
            assert (await client.call(CLIPBOARD, Nothing())).exported == "work"
        # A copy that fails wipes content held by chord; exported content stays.
        await person.copy("evil")
        await w.wait_event(
            "clipboard.ended", deadline=60, sandbox="evil", outcome="dropped"
        )
        assert (await status(w)).source == ""
        # The way over the person's clipboard is no way around work's rules.
        await person.paste("evil")
        ended = await w.wait_event(
            "clipboard.ended", deadline=60, sandbox="@adminvm", target="evil"
        )
        assert ended["outcome"] == "refused"
        assert "30-mine.policy:3" in ended["reason"]
        assert await box["evil"].pasted() == ""
