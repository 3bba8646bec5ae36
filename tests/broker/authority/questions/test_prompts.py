"""A dialog that is an ordinary window is brought to the front when the user wants it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from broker.authority.questions import prompts
from broker.authority.questions.phrase import choose_yes_text, new_phrase
from broker.authority.questions.prompts import Questions
from broker.core import limits
from broker.core.errors import PeerError
from broker.ipc import prompt as m
from tests.kit.eventually import eventually
from tests.kit.helper_starter import ended_starter
from tests.kit.prompting import question


def no_notification(title, text, *, sandbox=""):
    raise AssertionError(title)


def nobodys_questions(notify=no_notification):
    return Questions(
        paths=None,
        log=None,
        compositor=lambda: None,
        starter=ended_starter(),
        screen_reader=False,
        notify=notify,
    )


def questions_of(agent_seconds):
    """Questions, and an agent that says that it is there after so long."""
    questions = nobodys_questions()
    begun = trio.current_time()
    packets = [m.encode(m.PromptHello(layer=False)), b""]

    async def recv(_most):
        await trio.sleep_until(begun + agent_seconds)
        return packets.pop(0)

    return questions, SimpleNamespace(sock=SimpleNamespace(recv=recv), ready=False)


async def test_an_agent_that_starts_slowly_is_waited_for(autojump_clock, capfd):
    questions, agent = questions_of(limits.PROMPT_START_SECONDS - 1)
    await questions._listen(agent)
    assert agent.ready
    assert "has sent nothing for 10 s, but lives" in capfd.readouterr().err


async def test_an_agent_that_hangs_is_given_up(autojump_clock):
    questions, agent = questions_of(limits.PROMPT_START_SECONDS + 1)
    with pytest.raises(PeerError, match="within 120 s"):
        await questions._listen(agent)


@pytest.mark.parametrize("service", ["vitrail.AudioInput", "vitrail.ClipboardPaste"])
async def test_a_question_without_an_answer_is_reported_once(
    service, nursery, autojump_clock
):
    """The clipboard reports its own refusals."""
    notices = []
    questions = nobodys_questions(lambda *n, sandbox: notices.append((*n, sandbox)))
    nursery.start_soon(questions.run)
    number = questions.admit(question(service=service))
    answer = await questions.ask(number)
    assert answer.by == "timeout"
    reported = (
        "Vitrail: a request of work was refused",
        "it wanted to listen to your microphone;\nyou did not answer in time; to be asked again, repeat the action",
        "work",
    )
    assert notices == ([] if service.endswith("Paste") else [reported])


async def test_a_viewer_that_wants_it_in_front_all_the_time_gets_it_now_and_then(
    autojump_clock,
):
    questions = nobodys_questions()
    told = []

    async def tell(message):
        told.append(message)

    questions._agent = SimpleNamespace(shown=1, tell=tell)
    for _ in range(10):
        questions.raise_dialog("token")
        await questions._bring_to_front()
    assert told == [m.RaiseQuestion("token")]
    await trio.sleep(limits.PROMPT_RAISES_SECONDS)
    questions.raise_dialog("")
    await questions._bring_to_front()
    assert told[1:] == [m.RaiseQuestion("")]
    questions._agent.shown = 0
    await trio.sleep(limits.PROMPT_RAISES_SECONDS)
    questions.raise_dialog("")
    await questions._bring_to_front()
    assert len(told) == 2, "no question is on the screen"


class Screen:
    """An agent that notes what it shows, and when; the time is the test's."""

    shown, ready, covered = 0, True, False

    def __init__(self):
        self.orders = []

    async def tell(self, message):
        await trio.lowlevel.checkpoint()
        self.orders.append((trio.current_time(), message))

    def kinds(self):
        return [type(message).__name__ for _, message in self.orders]


@pytest.fixture
async def shown_first(nursery, monkeypatch):
    """Return questions of a screen; "first" is shown, and "second" waits."""
    questions, screen = nobodys_questions(), Screen()
    monkeypatch.setattr(prompts, "ensure_phrase", lambda _paths: "blue otter sings")
    questions._agent = screen
    nursery.start_soon(questions.run)
    numbers = [questions.admit(question(argument=name)) for name in ("first", "second")]
    nursery.start_soon(questions.ask, numbers[0])
    await eventually(lambda: screen.orders)
    nursery.start_soon(questions.ask, numbers[1])
    return questions, screen, numbers


@pytest.mark.parametrize("end", ["hangs-up", "is-answered", "brokerctl"])
async def test_next_question_waits_for_a_visible_gap(autojump_clock, shown_first, end):
    """Attack: a program exchanges the question under the pointer that is on Allow."""
    questions, screen, numbers = shown_first
    await trio.sleep(3)
    ended = trio.current_time()
    if end == "hangs-up":
        questions.leave(numbers[0])
    elif end == "brokerctl":
        questions.answer(
            1, allow=False, target="", keep=m.PersonAnswer(allow=False).keep
        )
    else:
        packets = [
            m.encode(m.PromptAnswer(1, m.PersonAnswer(allow=False, by="person")))
        ]

        async def recv(_most):
            await trio.lowlevel.checkpoint()
            return packets.pop()

        screen.sock = SimpleNamespace(recv=recv)
        await questions._take(screen)
    await trio.sleep(30)
    withdrawn = [] if end == "is-answered" else ["WithdrawQuestion"]
    kinds = [kind for kind in screen.kinds() if kind != "MoreQuestions"]
    assert kinds == ["Show", *withdrawn, "Show"]
    began, second = screen.orders[-1]
    assert second.question.argument == "second"
    assert began - ended >= limits.PROMPT_GAP_SECONDS
    assert second.seconds == limits.QUESTION_SECONDS, "from when it is shown"


async def test_yes_word_differs_between_questions(
    autojump_clock, shown_first, monkeypatch
):
    """Attack: a window of the sandbox says "type allow to go on"."""
    chosen = {choose_yes_text("amber apple") for _ in range(60)}
    assert len(chosen) > 20
    assert not chosen & {"amber", "apple", "allow"}
    questions, screen, numbers = shown_first
    monkeypatch.setattr(prompts, "choose_yes_text", lambda phrase: f"not {phrase}")
    questions.leave(numbers[0])
    await eventually(lambda: len(screen.orders) == 3)
    assert screen.orders[-1][1].yes_word == "not blue otter sings"


def test_words_of_a_phrase_can_be_typed():
    assert new_phrase().replace(" ", "").islower()
