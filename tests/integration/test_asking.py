"""Questions through the broker's half and a real agent: queue, deaths, answers."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import trio
import trio.testing

from broker.authority.helper_starter import HelperStarter
from broker.authority.questions import prompts
from broker.authority.questions.prompts import Questions
from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.paths import find_paths
from broker.core.question import Keep, PersonAnswer
from broker.helpers.prompt.dialog import lay_out
from broker.helpers.prompt.paint import _DENY, _INERT
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from tests.kit.eventually import eventually
from tests.kit.helper_starter import helper_starter
from tests.kit.link.roles import journal
from tests.kit.prompting import WORD, hands, question
from tests.kit.wayland.compositor import pixels, short_directory

GUARD = limits.PROMPT_GUARD_SECONDS


class Desk:
    """Questions of a broker, and what became of those that were asked."""

    def __init__(self, path, log, hands, environ, starter):
        self.path = path
        self.log = log
        self.hands = hands
        self.paths = find_paths(
            {"XDG_RUNTIME_DIR": str(path / "run"), "HOME": str(path)}
        )
        self.notices = []
        self.questions = Questions(
            paths=self.paths,
            log=log,
            compositor=lambda: None if hands is None else hands.comp.display,
            starter=starter,
            screen_reader="DBUS_SESSION_BUS_ADDRESS" in environ,
            notify=lambda title, text, *, sandbox: self.notices.append(text),
        )
        self.nursery = None
        self.answers = {}

    def ask(self, name, asked, scope=None):
        """Ask, and note the answer under a name when it comes."""

        async def wait():
            with scope or trio.CancelScope():
                number = self.questions.admit(asked)
                assert isinstance(number, int)
                try:
                    self.answers[name] = await self.questions.ask(number)
                finally:
                    self.questions.leave(number)

        self.nursery.start_soon(wait)

    async def heard(self, *names, deadline=90):
        async def look():
            return set(names) <= set(self.answers)

        await eventually(look, deadline=deadline)
        return [self.answers[name] for name in names]

    async def shows(self, argument):
        """Wait until the question with that argument is told to the agent."""

        async def look():
            entry = self.questions._queue.get(self.questions.shown())
            return entry is not None and entry.question.argument == argument

        await eventually(look)

    async def ready(self):
        """The agent is there."""

        async def look():
            return self.questions._agent is not None and self.questions._agent.ready

        await eventually(look)
        return self.questions.agent_pid

    async def say(self, name, act):
        """Rest for the guard's second, then act; again if it came too early.

        Each time later: where drawing a key takes longer than typing it, keys that
        are typed again and again let no word be alone.
        """
        rest = GUARD + 0.4
        with trio.fail_after(60):
            while name not in self.answers:
                await trio.sleep(rest)
                rest *= 2
                if name not in self.answers:
                    act()
        return self.answers[name]

    def events(self, *kinds):
        with open_log(self.path / "audit.sqlite") as log:
            return [row.fields() for row in log.find(Filters(kinds=kinds))]


@asynccontextmanager
async def desk(*, screen=True, dies=False):
    """``dies``: each helper ends at once."""
    async with nothing() if not screen else hands() as h:
        with short_directory() as path, ExitStack() as stack:
            environ = dict(os.environ)
            if h is not None:
                environ |= h.comp.environment
            stack.enter_context(
                patch.object(prompts, "choose_yes_text", lambda _: WORD)
            )
            async with journal(path) as log, trio.open_nursery() as nursery:
                starts = stack.enter_context(helper_starter(environ, dies=dies))
                made = Desk(path, log, h, environ, starts)
                made.nursery = nursery
                nursery.start_soon(made.questions.run)
                yield made
                pid = made.questions.agent_pid
                nursery.cancel_scope.cancel()
            assert not pid or not Path(f"/proc/{pid}").exists(), "it outlives nothing"


@asynccontextmanager
async def nothing():
    yield None


def of(sandbox, argument="", **more):
    return question(sandbox=sandbox, lease=sandbox, argument=argument, **more)


@pytest.mark.long
async def test_asked_and_answered_one_after_the_other():
    """Equal ones too, where a yes is for once; the phrase is the person's alone."""
    async with desk() as d:
        asked = of("a", "1")
        d.ask("first", asked)
        await d.shows("1")
        d.ask("again", asked)
        d.ask("other", of("b", "2"))
        first = await d.say("first", lambda: d.hands.type("allow"))
        assert first == PersonAnswer(allow=True, target="dom0", by="person")
        await d.shows("2")
        assert "again" not in d.answers, "the yes was for one request"
        other = await d.say("other", lambda: d.hands.click(asked, lay_out(asked).deny))
        assert (other.allow, other.by) == (False, "person")
        await d.shows("1")
        again = await d.say("again", lambda: d.hands.type("allow"))
        assert again == first
        phrase = d.paths.state / "prompt-phrase"
        assert phrase.stat().st_mode & 0o777 == 0o600


async def test_an_agent_that_is_killed_answers_no_to_all():
    """And the next question has a new one."""
    async with desk() as d:
        d.ask("a", of("a"))
        d.ask("b", of("b"))
        await d.shows("")
        pid = await d.ready()
        os.kill(pid, signal.SIGKILL)
        for answer in await d.heard("a", "b"):
            assert (answer.allow, answer.by) == (False, "broker")
            assert answer.reason == "the prompt agent has died"
        await eventually(lambda: died(d))
        (event,) = d.events("process.died")
        assert (event["process"], event["pid"], event["code"]) == ("prompt", pid, -9)
        d.ask("c", of("c", "3"))
        await d.shows("3")
        assert await d.ready() != pid
        answer = await d.say("c", lambda: d.hands.type("allow"))
        assert answer.allow


async def died(d):
    return d.events("process.died")


@pytest.mark.long
async def test_one_that_dies_all_the_time_is_left_alone():
    """Then it is 'brokerctl answer' that is left."""
    async with desk(dies=True) as d:
        for number in range(limits.PROMPT_DEATHS):
            d.ask(number, of(f"s{number}"))
            (answer,) = await d.heard(number)
            assert "died" in answer.reason
        d.ask("last", of("last"))
        await eventually(lambda: waits(d))

        async def all_told():
            return len(d.events("process.died")) >= limits.PROMPT_DEATHS

        await eventually(all_told)
        await trio.sleep(0.3)
        assert len(d.events("process.died")) == limits.PROMPT_DEATHS
        (entry,) = d.questions.pending()
        d.questions.answer(entry.id, allow=True, target="", keep=Keep.ONCE)
        (answer,) = await d.heard("last")
        assert answer.allow


@pytest.mark.parametrize(
    "error", [UpstreamError("no descriptor is left"), SetupError("no python")]
)
async def test_one_that_cannot_be_started_is_tried_a_few_times(monkeypatch, error):
    """Not repeatedly for as long as a question is open."""
    attempts = []

    async def no_room(*_words):
        attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(HelperStarter, "start", no_room)
    async with desk(screen=False) as d:
        d.questions._compositor = lambda: Path("wayland-0")
        d.ask("a", of("a"))
        await eventually(lambda: waits(d))
        await eventually(lambda: len(attempts) >= limits.PROMPT_DEATHS)
        with trio.fail_after(30):
            await trio.testing.wait_all_tasks_blocked(0.1)
        assert len(attempts) == limits.PROMPT_DEATHS
        (entry,) = d.questions.pending()
        d.questions.answer(entry.id, allow=True, target="", keep=Keep.ONCE)
        (answer,) = await d.heard("a")
        assert answer.allow


async def waits(d):
    return d.questions.pending()


async def test_without_a_compositor_brokerctl_answers():
    """Only offered answers count; after another one the question stays open."""
    async with desk(screen=False) as d:
        asked = of("a", targets=("dom0", "vault"), default_target="")
        d.ask("a", asked)
        await eventually(lambda: waits(d))
        (entry,) = d.questions.pending()
        for wrong in (
            {"target": ""},
            {"target": "work"},
            {"target": "vault", "keep": Keep.SESSION},
        ):
            with pytest.raises(RefusedError):
                d.questions.answer(
                    entry.id, **{"allow": True, "keep": Keep.ONCE, **wrong}
                )
        with pytest.raises(RefusedError, match="question 99 is not"):
            d.questions.answer(99, allow=True, target="vault", keep=Keep.ONCE)
        d.questions.answer(entry.id, allow=True, target="vault", keep=Keep.ONCE)
        (answer,) = await d.heard("a")
        assert (answer.allow, answer.target) == (True, "vault")
        assert d.questions.agent_pid == 0


async def test_a_question_without_an_answer(monkeypatch):
    monkeypatch.setattr(limits, "QUESTION_SECONDS", 1.0)
    async with desk() as d:
        d.ask("a", of("a"))
        (answer,) = await d.heard("a")
        assert (answer.allow, answer.by) == (False, "timeout")
        await eventually(lambda: shows_nothing(d))


async def test_a_question_behind_another_has_its_time_on_the_screen(monkeypatch):
    """Both are unanswered: the second is denied after it was shown for as long."""
    monkeypatch.setattr(limits, "QUESTION_SECONDS", 3.0)
    async with desk() as d:
        d.ask("a", of("a", "1"))
        await d.shows("1")
        d.ask("b", of("b", "2"))
        await eventually(lambda: d.questions._agent.behind == 1)
        (answer,) = await d.heard("a")
        assert answer.by == "timeout"
        assert len(d.notices) == 1
        await d.shows("2")
        began = trio.current_time()
        (answer,) = await d.heard("b")
        assert answer.by == "timeout"
        assert trio.current_time() > began + 2.0
        assert len(d.notices) == 2


async def shows_nothing(d):
    return d.questions._agent is not None and d.questions.shown() == 0


async def test_a_dialog_goes_when_no_waiter_for_it():
    """The sandbox has stopped, or hung up; an answer to it is no answer."""
    async with desk() as d:
        scope = trio.CancelScope()
        d.ask("a", of("a", "1"), scope)
        await d.shows("1")
        scope.cancel()
        await eventually(lambda: shows_nothing(d))
        d.ask("b", of("b", "2"))
        await d.shows("2")
        d.questions.forget("b")
        (answer,) = await d.heard("b")
        assert (answer.allow, answer.by) == (False, "gone")
        await eventually(lambda: shows_nothing(d))


@pytest.mark.long
async def test_answered_by_brokerctl_while_it_is_shown():
    async with desk() as d:
        d.ask("a", of("a", "1"))
        await d.shows("1")
        number = d.questions.shown()
        d.questions.answer(number, allow=False, target="", keep=Keep.ONCE)
        (answer,) = await d.heard("a")
        assert (answer.allow, answer.by) == (False, "person")
        await eventually(lambda: shows_nothing(d))


@pytest.mark.long
async def test_an_agent_that_is_stopped_keeps_nothing_open(monkeypatch):
    """SIGSTOP: no answer in time is a no, and nothing else waits for it."""
    monkeypatch.setattr(limits, "QUESTION_SECONDS", 2.0)
    async with desk() as d:
        d.ask("a", of("a"))
        await d.shows("")
        pid = await d.ready()
        os.kill(pid, signal.SIGSTOP)
        try:
            (answer,) = await d.heard("a")
            assert answer.by == "timeout"
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_press_for_an_exchanged_question_is_no_yes_to_the_next():
    """Attack: the program hangs up while the pointer rests on Allow."""
    async with desk() as d:
        reads = trio.CancelScope()
        d.ask("first", of("a", "holiday.jpg"), reads)
        await d.shows("holiday.jpg")
        d.ask("second", of("a", "id_rsa"))
        d.hands.move(of("a", "holiday.jpg"), lay_out(of("a", "x")).allow)
        await d.hands.awaits_dialog()
        reads.cancel()
        await eventually(lambda: not d.questions.shown())
        picture = await pixels(d.hands.comp)
        colours = {colour for _, colour in picture.getcolors(1 << 24)}
        assert not colours & {_DENY, _INERT}, "a dialog is between the questions"
        await trio.sleep(1.3)
        d.hands.click(of("a", "x"), lay_out(of("a", "x")).allow)
        await d.shows("id_rsa")
        assert d.answers == {}
        answer = await d.say("second", lambda: d.hands.press("Escape"))
        assert (answer.allow, answer.by) == (False, "person")
