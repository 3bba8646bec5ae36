"""Whatever is said in whatever order, about the person's own clipboard and cleaning.

``test_crossing_any`` has copy and paste between sandboxes; here a model keeps
who was allowed what, and of whom each byte is: ``H`` is the person's, ``C`` was
written again, other letters are a sandbox's own.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.broker import Crossing

BOXES = st.sampled_from(["work", "personal"])
NUMBERS = st.integers(-1, 30)
TERMS = w.CopyTerms(("text/plain",), 40, 50.0)


class HostAnything(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.marks = 0
        self.core = Crossing(new_mark=self.mark)
        self.now = 0.0
        self.claims: set[str] = set()
        self.asked: dict[int, w.AskPolicy] = {}
        self.let: set[tuple[str, str]] = set()
        """Source and target of each yes that may still be acted upon."""
        self.letters: dict[int, str] = {}
        self.clean: dict[int, str] = {}
        self.exports: dict[str, str] = {}

    def mark(self) -> str:
        self.marks += 1
        return f"application/x-mark-{self.marks}"

    def say(self, event: tuple[str, w.Event]) -> list[w.Action]:
        out = self.core.feed(*event, self.now)
        for action in out:
            self.note(action)
        return out

    def note(self, action: w.Action) -> None:
        match action:
            case w.AskPolicy():
                assert action.source != action.target
                assert action.origin in {"", *self.exports.values()}
                self.asked[action.transfer] = action
            case w.WorkerOrder(sandbox, ipc.ReadType(transfer, _, _, host)):
                if host:
                    assert (w.VIEWER, sandbox) in self.let
                self.letters[transfer] = "H" if host else sandbox[0]
            case w.WorkerOrder(sandbox, ipc.Rewrite(transfer, _, _, clean), items):
                assert "controls" in clean
                assert self.may(sandbox, items[0].data)
                self.letters[transfer] = "C"
                self.clean[transfer] = sandbox
            case w.WorkerOrder(target, ipc.Offer(), items):
                assert all(self.may(target, item.data) for item in items)
            case w.WorkerOrder(sandbox, ipc.Export(_, _, _, mark), items):
                assert self.core.focused == sandbox
                assert (sandbox, w.VIEWER) in self.let
                assert all(set(i.data.decode()) == {sandbox[0]} for i in items)
                self.exports[mark] = sandbox
            case w.WorkerOrder(
                message=ipc.StopRead() | ipc.AskTypes() | ipc.Withdraw()
            ):
                pass
            case w.Blame() | w.RecordCrossing():
                pass
            case _:
                raise AssertionError(action)

    def may(self, target: str, data: bytes) -> bool:
        """Whether every byte is of a sandbox that was allowed to give it."""
        whose = {"H": w.VIEWER, "w": "work", "p": "personal"}
        for letter in set(data.decode()):
            if letter == "C":
                if target not in self.clean.values():
                    return False
            elif (whose[letter], target) not in self.let:
                return False
        return True

    @rule(box=BOXES)
    def focus_taken(self, box):
        self.claims.add(box)
        self.let = {(s, t) for s, t in self.let if box in {s, t}}
        self.say((box, ipc.ClipboardFocus(taken=True)))

    @rule(box=BOXES)
    def focus_gone(self, box):
        self.claims.discard(box)
        self.say((box, ipc.ClipboardFocus(taken=False)))

    @rule(box=BOXES)
    def only_focus(self, box):
        for other in sorted(self.claims - {box}):
            self.focus_gone(other)
        self.focus_taken(box)

    @rule(box=BOXES, outward=st.booleans(), primary=st.booleans())
    def copy(self, box, outward, primary):
        self.only_focus(box)
        terms = w.CopyTerms(TERMS.patterns, TERMS.max_bytes, TERMS.ttl, primary)
        self.say((box, w.CopyPressed(terms, 1, outward)))

    @rule(box=BOXES, host=st.booleans())
    def paste(self, box, host):
        self.only_focus(box)
        self.say((box, w.PastePressed(TERMS if host else None)))

    @rule(box=BOXES, number=NUMBERS, mark=st.integers(0, 3), some=st.booleans())
    def types(self, box, number, mark, some):
        types = ("text/plain",) if some else ()
        self.say(
            (box, ipc.ClipboardTypes(number, (*types, f"application/x-mark-{mark}")))
        )

    @rule(box=BOXES, number=NUMBERS, size=st.integers(0, 41))
    def data(self, box, number, size):
        letter = self.letters.get(number, box[0]).encode()
        self.say((box, w.CheckedContent(number, letter * size)))

    @rule(number=NUMBERS, yes=st.booleans(), clean=st.booleans())
    def decided(self, number, yes, clean):
        asked = self.asked.pop(number, None)
        if asked is not None and yes:
            self.let.add((asked.source, asked.target))
        words = frozenset({"controls"} if clean else ())
        terms = w.PasteTerms(("text/plain",), 40, 20.0, clean=words)
        self.say(("", w.Decided(number, terms if yes else None)))

    @rule(
        box=BOXES,
        inward=st.booleans(),
        upto=st.integers(1, 6),
        between=st.sampled_from([None, None, "work", "personal"]),
        clean=st.booleans(),
        mark=st.integers(0, 3),
    )
    def honest(self, box, inward, upto, between, clean, mark):
        """A whole way in or out, or a part of it; random words rarely make one."""
        if inward:
            self.say(("", w.Cleared()))
            self.let.clear()
            self.paste(box, host=True)
        else:
            self.copy(box, outward=True, primary=False)
        for step in range(upto):
            if step == 2 and between is not None:
                self.focus_taken(between)
            for number in self.core.undecided:
                self.decided(number, yes=True, clean=clean)
            last = self.core._last
            if step == 0:
                self.types(box, last, mark if inward else 9, some=True)
            elif last in self.letters:
                self.data(box, last, 5)
                del self.letters[last]

    @rule(box=BOXES, clean=st.booleans())
    def honest_paste(self, box, clean):
        self.paste(box, host=False)
        for number in self.core.undecided:
            self.decided(number, yes=True, clean=clean)
        if self.core._last in self.letters:
            self.data(box, self.core._last, 5)

    @rule(box=BOXES, number=NUMBERS, ended=st.booleans())
    def exported(self, box, number, ended):
        self.say(
            (box, ipc.ExportEnded(number))
            if ended
            else (box, ipc.Exported(number, "x"))
        )

    @rule(box=BOXES, number=NUMBERS)
    def failed(self, box, number):
        self.say((box, ipc.ClipboardFailed(number, "why")))

    @rule(box=BOXES)
    def gone(self, box):
        self.claims.discard(box)
        self.exports = {m: s for m, s in self.exports.items() if s != box}
        self.say((box, w.SandboxGone()))

    @rule(event=st.sampled_from([("", w.EpochChanged()), ("", w.Cleared())]))
    def wiped(self, event):
        self.let.clear()
        self.say(event)
        assert self.core.deadline is None
        assert self.core.undecided == set()

    @rule(seconds=st.sampled_from([0.1, 5.0, 20.0, 100.0]))
    def time(self, seconds):
        self.now += seconds
        self.say(("", w.Ticked()))
        due = self.core.deadline
        assert due is None or due > self.now

    @invariant()
    def what_is_undecided_was_asked(self):
        assert self.core.undecided <= set(self.asked)


HostAnything.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestHostAnything = pytest.mark.timeout(120)(HostAnything.TestCase)
