"""Waiting questions: which one is shown, and which callers receive its answer.

Sans-IO: time is passed in.  Its rules:

* Equal questions are one dialog, and a no goes to all callers that asked.  A yes for
  *once* is for the first of them; the others are asked about again, because the
  person has seen one request and allowed one.
* One sandbox can neither fill the queue nor be before others in it: it has
  few places, and of those that wait the one is next whose sandbox was shown
  longest ago.
* A sandbox that asks too often, or repeats a question that was just refused, is
  refused without a dialog.
* A question's time begins when it is on the screen.  It waits behind others for a
  limited time, too.
* Every question ends: by an answer, by its time, by the agent's death, or
  because no caller waits for it any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from broker.core import limits
from broker.core.fair_share import may_take
from broker.core.question import Keep, PersonAnswer, Question, unfit

Settled = list[tuple[int, PersonAnswer]]
"""The callers that asked, each with its answer."""

TOO_OFTEN = "the sandbox asks too often"
AGAIN = "the same request was refused a moment ago"
FULL = "too many questions are already waiting"


@dataclass(eq=False)
class QueueEntry:
    """A question that waits.  ``id`` is never used twice; times are monotonic."""

    id: int
    question: Question
    since: float
    deadline: float
    askers: list[int] = field(default_factory=list)
    absent: set[int] = field(default_factory=set)
    """Those of them that do not wait any more, and want the answer all the same."""
    ready: bool = False
    """Whether it may be shown: it is on record that it was asked."""
    seen: bool = False
    """Whether the user has had it on the screen."""


# Questions are admitted, then recorded, then shown. A thousand requests at one moment
# all passed a look at "how many wait", because each then waited for the disk before it
# was counted. So a question takes its place first, is recorded, and only then may be
# shown.
@dataclass
class _Bucket:
    """How many dialogs the sandboxes of a record may still cause."""

    left: float
    then: float

    def room(self, now: float) -> bool:
        per_second = limits.QUESTIONS_PER_MINUTE / 60
        grown = self.left + (now - self.then) * per_second
        self.left, self.then = min(float(limits.QUESTIONS_BURST), grown), now
        # guard: a sandbox asks few questions in a minute
        return self.left >= 1


class Queue:
    """All questions of one broker."""

    def __init__(self, last: int = 0) -> None:
        """Set up the queue.

        ``last``: the number of the last question before this broker.
        """
        self._entries: dict[int, QueueEntry] = {}
        self._next_id = last + 1
        self._next_asker = 1
        self._shown = 0
        """Id of the question on the screen; 0, or of one that has ended: none."""
        self._shown_at: dict[str, int] = {}
        self._shows = 0
        self._buckets: dict[str, _Bucket] = {}
        self._refused: dict[Question, float] = {}

    def all(self) -> list[QueueEntry]:
        """Those that wait, oldest first."""
        return list(self._entries.values())

    def get(self, number: int) -> QueueEntry | None:
        """Return the entry with that id, if it still waits."""
        return self._entries.get(number)

    # -- asking ------------------------------------------------------------------

    def refusal(self, question: Question, now: float) -> str:
        """Return why a question is denied without a dialog.

        Empty: it would be asked.
        """
        self._forget(now)
        # guard: the same again
        if question in self._refused:
            return AGAIN
        entry = self._equal(question)
        if entry is not None:
            return FULL if len(entry.askers) >= limits.QUESTION_ASKERS else ""
        # guard: disposables have their record's questions
        mine = sum(e.question.record == question.record for e in self._entries.values())
        # guard: questions of one sandbox
        if mine >= limits.QUESTIONS_PER_SANDBOX:
            return TOO_OFTEN
        # guard: questions in all
        if not may_take(mine, len(self._entries), limits.QUESTIONS_WAITING):
            return FULL
        bucket = self._buckets.get(question.record)
        return TOO_OFTEN if bucket is not None and not bucket.room(now) else ""

    def ask(self, question: Question, now: float) -> int | PersonAnswer:
        """Queue a question; return the asker's number, or the answer at once.

        It has its place, and counts, from now on; it is not shown before
        ``release``.
        """
        reason = self.refusal(question, now)
        if reason:
            return PersonAnswer(allow=False, reason=reason)
        entry = self._equal(question)
        if entry is None:
            self._bucket(question, now).left -= 1
            entry = QueueEntry(
                self._next_id, question, now, now + limits.QUESTION_SECONDS
            )
            self._next_id += 1
            self._entries[entry.id] = entry
            self._extend_waiting()
        asker = self._next_asker
        self._next_asker += 1
        entry.askers.append(asker)
        return asker

    def release(self, asker: int) -> None:
        """Allow the question of this caller to be shown."""
        for entry in self._entries.values():
            entry.ready = entry.ready or asker in entry.askers

    def leave(self, asker: int) -> None:
        """Remove a caller that waits no more; drop a question without callers."""
        for entry in self._entries.values():
            if asker in entry.askers:
                entry.askers.remove(asker)
                if not entry.askers:
                    del self._entries[entry.id]
                return

    def absent(self, asker: int) -> bool:
        """Mark a caller as gone; keep the answer for its next request.

        False: another caller has the same question, and gets the answer.
        """
        for entry in self._entries.values():
            # guard: one absent caller holds one question
            if entry.askers == [asker]:
                entry.absent.add(asker)
                return True
        return False

    def _bucket(self, question: Question, now: float) -> _Bucket:
        burst = float(limits.QUESTIONS_BURST)
        return self._buckets.setdefault(question.record, _Bucket(burst, now))

    def _equal(self, question: Question) -> QueueEntry | None:
        for entry in self._entries.values():
            if entry.question == question:
                return entry
        return None

    # -- showing --------------------------------------------------------------------

    def front(self) -> QueueEntry | None:
        """Return the entry to show: of the record that was shown longest ago."""
        # guard: shown after it is recorded
        waiting = [entry for entry in self._entries.values() if entry.ready]
        # guard: fair turns
        return min(waiting, key=lambda e: (self._turn(e), e.id), default=None)

    def show(self, entry: QueueEntry, now: float) -> None:
        """Mark an entry as shown; its record waits until others had their turn."""
        self._shows += 1
        self._shown_at[entry.question.record] = self._shows
        self._shown = entry.id
        self._start_time(entry, now)

    def mark_seen(self, number: int, now: float) -> None:
        """Start a question's time: the compositor has shown it, for the first time."""
        entry = self._entries.get(number)
        if entry is not None and not entry.seen:
            entry.seen = True
            self._start_time(entry, now)

    def behind(self, number: int) -> int:
        """Return how many other questions wait to be shown after this one."""
        return sum(entry.ready and entry.id != number for entry in self.all())

    def _start_time(self, entry: QueueEntry, now: float) -> None:
        entry.deadline = now + limits.QUESTION_SECONDS
        self._extend_waiting()

    def _extend_waiting(self) -> None:
        """Let the others wait for the question on the screen, up to a limit."""
        front = self._entries.get(self._shown)
        if front is None:
            return
        for entry in self.all():
            if entry is not front:
                # guard: a question that is never shown ends
                limit = entry.since + limits.QUESTION_WAIT_SECONDS
                until = min(front.deadline + limits.QUESTION_SECONDS, limit)
                entry.deadline = max(entry.deadline, until)

    def _turn(self, entry: QueueEntry) -> int:
        return self._shown_at.get(entry.question.record, 0)

    # -- ends ----------------------------------------------------------------------------

    def answer(self, number: int, answer: PersonAnswer, now: float) -> Settled:
        """Apply the user's answer; an answer that was not offered is a no."""
        entry = self._entries.pop(number, None)
        if entry is None:
            return []
        # guard: choices that were not offered
        reason = unfit(entry.question, answer)
        if reason:
            answer = PersonAnswer(allow=False, by="broker", reason=reason)
        elif not answer.allow and answer.by == "person":
            self._refused[entry.question] = now + limits.QUESTION_AGAIN_SECONDS
        # guard: a yes for once permits one request
        if answer.allow and answer.keep is Keep.ONCE:
            # For an asker that still waits: else a second yes would be needed.
            entry.askers.sort(key=lambda asker: asker in entry.absent)
            return [(entry.askers[0], answer), *self._again(entry, now)]
        return [(asker, answer) for asker in entry.askers]

    def _again(self, entry: QueueEntry, now: float) -> Settled:
        """Put the question once more for those after the first asker."""
        gone = PersonAnswer(allow=False, by="gone", reason="the requester disconnected")
        others = [one for one in entry.askers[1:] if one not in entry.absent]
        left = [(one, gone) for one in entry.askers[1:] if one in entry.absent]
        if not others:
            return left
        bucket = self._bucket(entry.question, now)
        if not bucket.room(now):
            no = PersonAnswer(allow=False, reason=TOO_OFTEN)
            return [*left, *((asker, no) for asker in others)]
        bucket.left -= 1
        until = now + limits.QUESTION_SECONDS
        again = replace(
            entry,
            id=self._next_id,
            since=now,
            deadline=until,
            askers=others,
            seen=False,
        )
        self._next_id += 1
        self._entries[again.id] = again
        return left

    def find_expired(self, now: float) -> list[QueueEntry]:
        """Return the questions whose deadline has passed."""
        return [entry for entry in self._entries.values() if entry.deadline <= now]

    def expire(self, now: float) -> Settled:
        """Deny questions whose deadline has passed; return who is to be answered."""
        self._forget(now)
        # guard: no answer in time
        expired = self.find_expired(now)
        said = PersonAnswer(
            allow=False, by="timeout", reason="the user did not answer in time"
        )
        return self._end(expired, said)

    def fail_all(self, reason: str) -> Settled:
        """Refuse all questions: none can be asked any more."""
        return self._end(
            self.all(), PersonAnswer(allow=False, by="broker", reason=reason)
        )

    def forget(self, lease: str) -> Settled:
        """A sandbox has stopped."""
        mine = [e for e in self._entries.values() if e.question.lease == lease]
        gone = PersonAnswer(allow=False, by="gone", reason="the sandbox has stopped")
        return self._end(mine, gone)

    def _end(self, entries: list[QueueEntry], answer: PersonAnswer) -> Settled:
        for entry in entries:
            del self._entries[entry.id]
        return [(asker, answer) for entry in entries for asker in entry.askers]

    def deadline(self) -> float:
        """When ``expire`` will next have something to do; infinity: never."""
        return min((e.deadline for e in self._entries.values()), default=float("inf"))

    def _forget(self, now: float) -> None:
        """Forget expired refusals and full budgets."""
        for question in [q for q, until in self._refused.items() if until <= now]:
            del self._refused[question]
        for record, bucket in list(self._buckets.items()):
            if bucket.room(now) and bucket.left >= limits.QUESTIONS_BURST:
                del self._buckets[record]
                self._shown_at.pop(record, None)
