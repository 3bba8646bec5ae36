"""Asking the user: the queue, and the prompt agent that draws its front.

The agent is our process in the user's session, started when the first
question comes and ended with us.  It receives one question at a time over a pair
of sockets without a name.  Beside it runs the process that screen readers ask
(broker/programs/accessible.py).  Its answer is checked against the offered choices;
when it dies, all waiting questions are answered no.  Where there is no
compositor, or the agent dies too often, questions wait for ``brokerctl answer``.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.helper_starter import Helper, HelperStarter
from broker.authority.questions.phrase import choose_yes_text, ensure_phrase
from broker.authority.questions.queue import Queue, QueueEntry, Settled
from broker.core import limits
from broker.core.errors import (
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.notify import Notify
from broker.core.paths import Paths
from broker.core.question import (
    CONTROL_SOCKET,
    Keep,
    PersonAnswer,
    Question,
    unfit,
)
from broker.core.services import CLIPBOARD_PASTE
from broker.core.stderr_log import log_exception, log_stderr
from broker.ipc import prompt as m
from broker.ipc.audit import schema
from broker.ipc.authority import QuestionWaits
from broker.ipc.starter import HelperProgram

_DIED = "the prompt agent has died"
_TELL_SECONDS = 5.0


class _Waiter:
    """A caller that waits for an answer."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer = PersonAnswer(
            allow=False, by="timeout", reason="the user did not answer in time"
        )


class _Agent:
    """A running prompt agent."""

    def __init__(
        self, child: Helper, sock: trio.socket.SocketType, reader: Helper | None
    ) -> None:
        self.child = child
        self.reader = reader
        """Offers its words to screen readers; ends with it."""
        self.sock = sock
        self.ready = False
        self.shown = 0
        """The question that it was asked to show; 0: none."""
        self.covered = False
        """Another window is in front of its dialog."""
        self.behind = 0
        """The number of further questions that its dialog reports."""
        self.unable = ""

    async def tell(self, message: m.ToAgent) -> None:
        """Send a message; kill an agent that does not read."""
        with trio.move_on_after(_TELL_SECONDS) as patience:
            try:
                await self.sock.send(m.encode(message))
            except (OSError, trio.ClosedResourceError):
                return  # it has gone; the task that reads from it notices
        if patience.cancelled_caught:
            self.child.kill()


class Questions:
    """Implements ``permits.Asker`` with a user at a screen."""

    def __init__(
        self,
        *,
        paths: Paths,
        log: EventLog,
        compositor: Callable[[], Path | None],
        starter: HelperStarter,
        screen_reader: bool,
        notify: Notify,
        last: int = 0,
    ) -> None:
        self._paths = paths
        self._notify = notify
        self._log = log
        self._compositor = compositor
        self._starter = starter
        self._screen_reader = screen_reader
        self._queue = Queue(last)
        self._waiters: dict[int, _Waiter] = {}
        self._wake = trio.Event()
        self._agent: _Agent | None = None
        self._starting = False
        self._deaths: deque[float] = deque(maxlen=limits.PROMPT_DEATHS)
        self.waits: Callable[[QuestionWaits], None] = _untold
        """Called when another question is on the screen, or it is covered."""
        self._told = QuestionWaits()
        self._raise: str | None = None
        self._raised_at = float("-inf")
        self._gap_end = float("-inf")
        """No question is shown before this time."""

    # -- permits.Asker ---------------------------------------------------------------

    def admit(self, question: Question) -> int | PersonAnswer:
        """See ``Asker``."""
        got = self._queue.ask(question, trio.current_time())
        if isinstance(got, int):
            self._waiters[got] = _Waiter()
        return got

    async def ask(self, number: int) -> PersonAnswer:
        """Wait for the user's answer to a question.  See ``Asker``."""
        mine = self._waiters[number]
        self._queue.release(number)
        self._wake.set()
        # Whatever becomes of the queue's own task, this ends.
        with trio.move_on_after(limits.QUESTION_MOST_SECONDS + _TELL_SECONDS):
            await mine.answered.wait()
        return mine.answer

    def absent(self, number: int) -> bool:
        """See ``Asker``."""
        return self._queue.absent(number)

    def leave(self, number: int) -> None:
        """See ``Asker``."""
        self._waiters.pop(number, None)
        self._queue.leave(number)
        self._wake.set()

    def forget(self, lease: str) -> None:
        """See ``Asker``."""
        self._settle(self._queue.forget(lease))

    # -- for brokerctl -----------------------------------------------------------------

    def pending(self) -> list[QueueEntry]:
        """Return the questions that wait for an answer, oldest first."""
        return self._queue.all()

    def shown(self) -> int:
        """The id of the question that is on the screen; 0: none."""
        return 0 if self._agent is None else self._agent.shown

    @property
    def agent_pid(self) -> int:
        """Of the prompt agent; 0: none runs."""
        return 0 if self._agent is None else self._agent.child.pid

    def answer(
        self, number: int, *, allow: bool, target: str, keep: Keep, who: str = ""
    ) -> None:
        """Answer a question, as ``who`` for the log.

        Raises RefusedError that lists the possible answers.
        """
        entry = self._queue.get(number)
        if entry is None:
            raise RefusedError(
                f"question {number} is not waiting for an answer",
                hint="to list the waiting questions, run 'brokerctl pending'",
            )
        said = PersonAnswer(
            allow=allow,
            target=target or entry.question.default_target,
            keep=keep,
            by="person",
            reason=f"{CONTROL_SOCKET}{who and ' by '}{who}",
        )
        wrong = unfit(entry.question, said)
        # guard: brokerctl answers with an offered choice
        if wrong:
            raise RefusedError(
                wrong,
                hint=f"use one of these targets: {', '.join(entry.question.targets)}; and one of these durations: {', '.join(entry.question.keeps)}",
            )
        self._settle(self._queue.answer(number, said, trio.current_time()))

    def raise_dialog(self, token: str) -> None:
        """Bring the dialog to the front, by a compositor's token; too often, do not."""
        now = trio.current_time()
        # guard: a dialog is brought to the front at a pace
        if now - self._raised_at >= limits.PROMPT_RAISES_SECONDS:
            self._raise, self._raised_at = token, now
            self._wake.set()

    def _tell_waiting(self) -> None:
        """Report the question that is on the screen, if that has changed."""
        agent = self._agent
        entry = None if agent is None else self._queue.get(agent.shown)
        now = QuestionWaits()
        if agent is not None and entry is not None:
            one = entry.question
            whose = entry.id, one.lease, one.sandbox, one.words
            now = QuestionWaits(*whose, covered=agent.covered)
        if now != self._told:
            self._told = now
            self.waits(now)

    def _settle(self, settled: Settled) -> None:
        """Wake the callers of answered questions."""
        for asker, answer in settled:
            waiter = self._waiters.get(asker)
            if waiter is not None:
                waiter.answer = answer
                waiter.answered.set()
        self._wake.set()

    # -- showing -------------------------------------------------------------------------

    async def run(self) -> None:
        """Show waiting questions, and end those that are over, until cancelled."""
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    self._wake = trio.Event()
                    now = trio.current_time()
                    for entry in self._queue.find_expired(now):
                        self._notify_timeout(entry.question)
                    over = self._queue.expire(now)
                    if over:
                        self._settle(over)
                    await self._show(nursery)
                    await self._send_behind()
                    await self._bring_to_front()
                    self._tell_waiting()
                    gap_end = self._gap_end if self._gap_end > now else float("inf")
                    with trio.move_on_at(min(self._queue.deadline(), gap_end)):
                        await self._wake.wait()
            finally:
                self._settle(self._queue.fail_all("the broker ends"))

    async def _show(self, nursery: trio.Nursery) -> None:
        """Send the prompt agent the question at the front of the queue, or withdraw it.

        If no agent runs and a compositor answers, starts the agent instead.  The question
        goes with the user's phrase, whose file is created if there is none.
        """
        agent, front = self._agent, self._queue.front()
        if agent is None:
            if front is not None and not self._starting and self._may_start():
                self._starting = True
                nursery.start_soon(self._live)
            return
        if not agent.ready or self._queue.get(agent.shown) is not None:
            return  # it has not started yet, or the user is reading that one
        if agent.shown:
            agent.shown = 0
            await agent.tell(m.WithdrawQuestion())
            self._begin_gap()
        # guard: a question does not take the place of another at once
        if front is None or trio.current_time() < self._gap_end:
            return
        agent.shown, agent.covered, agent.behind = front.id, False, 0
        now = trio.current_time()
        self._queue.show(front, now)
        phrase = self._read_or_make_phrase()
        seconds = front.deadline - now
        yes_word = choose_yes_text(phrase)
        show = m.Show(front.id, front.question, phrase, seconds, yes_word)
        await agent.tell(show)

    def _begin_gap(self) -> None:
        """Note that a question has gone from the screen."""
        self._gap_end = trio.current_time() + limits.PROMPT_GAP_SECONDS

    async def _send_behind(self) -> None:
        """Have the dialog report how many questions wait after it, if that changed."""
        agent = self._agent
        if agent is None or not agent.shown:
            return
        behind = self._queue.behind(agent.shown)
        if behind != agent.behind:
            agent.behind = behind
            await agent.tell(m.MoreQuestions(behind))

    def _notify_timeout(self, question: Question) -> None:
        """Notify the user of a question that nobody answered."""
        # A refused crossing of the clipboard has its own notification.
        if question.service != CLIPBOARD_PASTE:
            self._notify(
                f"Vitrail: a request of {question.sandbox} was refused",
                f"it wanted {question.words};\n"
                "you did not answer in time; to be asked again, repeat the action",
                sandbox=question.sandbox,
            )

    async def _bring_to_front(self) -> None:
        """Have the prompt agent raise its dialog, if the user wants that."""
        token, self._raise = self._raise, None
        if token is not None and self._agent is not None and self._agent.shown:
            await self._agent.tell(m.RaiseQuestion(token))

    def _read_or_make_phrase(self) -> str:
        """Return the user's phrase from its file, which is created if absent.

        Empty, and a line on standard error, if that fails.
        """
        try:
            return ensure_phrase(self._paths)
        except (OSError, VitrailError) as error:
            log_stderr(f"vitrail: cannot store the prompt's phrase: {error}")
            return ""

    def _may_start(self) -> bool:
        """Connect to the compositor; return whether it answers and few agents died."""
        if self._compositor() is None:
            return False
        since = trio.current_time() - limits.PROMPT_DEATHS_SECONDS
        recent = [death for death in self._deaths if death > since]
        return len(recent) < limits.PROMPT_DEATHS

    # -- the agent -----------------------------------------------------------------------

    async def _live(self) -> None:
        """Run one prompt agent from its start to its end."""
        agent: _Agent | None = None
        asked = False
        try:
            self._agent = agent = await self._start()
            await self._listen(agent)
        except (SetupError, UpstreamError, PeerError) as error:
            log_stderr(f"vitrail: the prompt agent failed: {error}")
        except trio.Cancelled:
            asked = True
            raise
        except Exception as error:  # noqa: BLE001 -- questions must not end the broker
            log_exception(error)
        finally:
            self._agent, self._starting = None, False
            with trio.CancelScope(shield=True):
                if agent is not None:
                    await self._end(agent, asked=asked)
                else:  # an agent that does not start is not tried again at once
                    self._deaths.append(trio.current_time())
            self._wake.set()

    async def _start(self) -> _Agent:
        """Start a prompt agent and the process for screen readers."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        says, hears = one_way_pair()
        with theirs, says, hears:
            try:
                ours.setblocking(False)  # noqa: FBT003
                fds = [theirs.fileno(), says.fileno()]
                child = await self._starter.start(HelperProgram.PROMPT, fds)
            except BaseException:
                ours.close()
                raise
            reader = await self._start_reader(hears)
        return _Agent(child, trio.socket.from_stdlib_socket(ours), reader)

    async def _start_reader(self, hears: socket.socket) -> Helper | None:
        """Start the process for screen readers; None without a session bus."""
        if not self._screen_reader:
            return None
        try:
            return await self._starter.start(HelperProgram.ACCESSIBLE, [hears.fileno()])
        except (SetupError, UpstreamError) as error:
            log_stderr(f"vitrail: cannot start the process for screen readers: {error}")
            return None

    async def _listen(self, agent: _Agent) -> None:
        """Handle messages of the prompt agent until it closes its socket.

        Raises PeerError.
        """
        slow = limits.PROMPT_SLOW_SECONDS
        with trio.move_on_after(slow) as first:
            await self._take(agent)
        if first.cancelled_caught:
            log_stderr(
                f"vitrail: the prompt agent has sent nothing for {slow:g} s, but lives: "
                "waiting for it; to answer meanwhile, run 'brokerctl answer'"
            )
            with trio.move_on_after(limits.PROMPT_START_SECONDS - slow) as last:
                await self._take(agent)
            if last.cancelled_caught:
                raise PeerError(
                    f"it sent nothing within {limits.PROMPT_START_SECONDS:g} s"
                )
        while await self._take(agent):
            pass

    async def _take(self, agent: _Agent) -> bool:
        """Handle one message of a prompt agent.

        Return False when the agent has gone.
        """
        try:
            packet = await agent.sock.recv(limits.PROMPT_MESSAGE_BYTES)
        except ConnectionError:
            return False
        if not packet:
            return False
        match m.decode_from_agent(packet):
            case m.PromptHello():
                agent.ready = True
            case m.PromptAnswer(number, answer):
                if number == agent.shown:  # else it was withdrawn meanwhile
                    agent.shown = 0
                    self._begin_gap()
                    now = trio.current_time()
                    self._settle(self._queue.answer(number, answer, now))
            case m.Unable(reason):
                agent.unable = reason
            case m.Covered(number, covered):
                if number == agent.shown:
                    agent.covered = covered
            case m.Shown(number):
                self._queue.mark_seen(number, trio.current_time())
        self._wake.set()
        return True

    async def _end(self, agent: _Agent, *, asked: bool) -> None:
        """End a prompt agent; record a failure if it was asked a question."""
        agent.sock.close()
        pid = agent.child.pid
        with trio.move_on_after(_TELL_SECONDS):
            await agent.child.wait()
        code = await agent.child.stop()
        if agent.reader is not None:
            await agent.reader.stop()
        if asked:
            return
        self._deaths.append(trio.current_time())
        if agent.unable:
            log_stderr(f"vitrail: cannot show questions: {agent.unable}")
            return  # what waits, waits for 'brokerctl answer'
        # guard: a death answers no
        self._settle(self._queue.fail_all(_DIED))
        await self._log.note(
            schema.ProcessDied(
                process=schema.Process.PROMPT,
                pid=pid,
                code=code,
                reason="all waiting questions are answered no",
            )
        )


def _untold(_waits: QuestionWaits) -> None:
    """Nobody is told: this broker has no viewer, or none yet."""


def one_way_pair() -> tuple[socket.socket, socket.socket]:
    """Return the agent's end, which cannot be written to, and the reader's."""
    says, hears = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # guard: screen readers send nothing to the dialog
    says.shutdown(socket.SHUT_RD)
    return says, hears
