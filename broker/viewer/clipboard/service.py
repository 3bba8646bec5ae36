"""The clipboard between a viewer's sandboxes: the shell around ``exchange``.

One for each viewer.  Workers report which of them has the keyboard and which chord
was pressed; the crossing returns actions; here they are done, one after the
other: policy asked, record written, order given.

Nothing here waits for a sandbox.  Messages to a worker go through a queue of
its own, and a worker that takes no orders is ended.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import trio
from typing_extensions import override

from broker.authority.audit import event_log
from broker.core.clipboard.chord_settings import DEFAULT, ChordChoice
from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.limits import clipboard as limits
from broker.core.notify import Notify
from broker.core.sliding_window import SlidingWindow
from broker.core.stderr_log import log_exception, run_isolated
from broker.ipc import clipboard as messages
from broker.viewer.authority.interface import Permits
from broker.viewer.clipboard import clipboard_member
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons
from broker.viewer.clipboard.exchange.broker import Crossing
from broker.viewer.clipboard.exchange.exports import MARK
from broker.viewer.clipboard.exchange.operations import TransferStatus
from broker.viewer.clipboard.file_carriers import FileCarriers
from broker.viewer.clipboard.outcomes import Telling
from broker.viewer.clipboard.permissions import Terms
from broker.viewer.sandboxes.guest import Guest
from policy.records.model import Record

_MARK_BYTES = 12
_TITLE_CHARACTERS = 40
"""Length of a window's title in a notification: a program chooses it, so no room for advice."""
_TROUBLES, _ALL_TROUBLES = 2, 64
"""Different reasons that are shown, of one sandbox and of all."""


_Posted = tuple[str, w.Event, trio.Event | None]
"""A sandbox, its event, and the trio event to set when all its actions are done."""


class Party(clipboard_member.ClipboardMember):
    """One sandbox on this clipboard (``Guest.crossing``)."""

    def __init__(self, clipboard: ClipboardService, guest: Guest) -> None:
        self.lease: Lease = guest.lease
        self.trouble = ""
        """Why its windows know no chords, or not both."""
        self.troubles = 0
        """Reasons of it that the user was shown."""
        self._clipboard = clipboard
        self.guest = guest
        self._orders, self._pending = trio.open_memory_channel[w.WorkerOrder](
            limits.CLIPBOARD_ORDERS
        )
        self._pace = SlidingWindow(
            limits.CLIPBOARD_CHORDS, limits.CLIPBOARD_CHORDS_SECONDS
        )
        self._over: messages.ForeignDrag | messages.DragOverMessage | None = None
        """The last drag over its windows."""
        self._later = trio.CancelScope()
        """Of the task that waits for that one's source."""
        self._told: messages.DragsMessage | None = None
        """The last message about drags to the worker; None before it has begun."""
        self._telling = trio.Lock()
        """Of the rules for drags: the last notification is about the last decision."""
        self._refusals = SlidingWindow(1, limits.CLIPBOARD_CHORDS_SECONDS)
        self._confirming = False

    @override
    def chords(self) -> messages.ChordsMessage:
        """Return the key combinations for copy and paste in this sandbox's windows."""
        choice = self._clipboard.choice
        return messages.ChordsMessage(choice.copy, choice.paste)

    @override
    async def tell_drags(self, worker: clipboard_member.Orders) -> None:
        """Tell a worker that has begun which of its drags may cross."""
        async with self._telling:
            self._told = await self._clipboard.drags_of(self.lease)
            await worker.send(self._told)

    @override
    async def take(self, said: clipboard_member.Said) -> None:
        """Handle a message of the worker, whose claims may be hostile."""
        match said:
            case messages.ChordTroubleMessage(reason):
                self.trouble = printable(reason, 300)
                self._clipboard.troubled(self)
            case messages.ChordPressed():
                # guard: chords in a row
                if self._pace.take(trio.current_time()):
                    event = await self._clipboard.pressed(self.lease, said)
                    await self._clipboard.put(self, event)
            case messages.ForeignDrag() | messages.DragOverMessage():
                await self._drag_came(said)
            case messages.DragDropped() | messages.DragWantedMessage():
                await self._drag_asked(said)
            case _:
                await self._clipboard.put(self, said)

    async def _drag_came(
        self, said: messages.ForeignDrag | messages.DragOverMessage
    ) -> None:
        """Handle a drag that enters a window: wait for its source if it is unknown."""
        self._over = said
        # guard: unknown drags
        self._later.cancel()  # there is one pointer
        if isinstance(said, messages.DragOverMessage) and not self._clipboard.knows(
            said.mark
        ):
            self._later = trio.CancelScope()
            self._clipboard.start(self._drag_later, said, self._later)
        else:
            await self._put_over(said)

    async def _drag_later(
        self, said: messages.DragOverMessage, scope: trio.CancelScope
    ) -> None:
        """Wait until the drag's source has reported it, or too long.

        Then handle the drag.
        """
        with scope, trio.move_on_after(limits.CLIPBOARD_MARK_SECONDS):
            await self._clipboard.wait_known(said.mark)
        if self._over is said:
            await self._put_over(said)

    async def _put_over(
        self, said: messages.ForeignDrag | messages.DragOverMessage
    ) -> None:
        """Feed a drag over a window to the exchange; limit reported refusals."""
        event: w.Event
        if isinstance(said, messages.DragOverMessage):
            event = await self._clipboard.dragged_over(self.lease, said)
            hopeless = event.terms is None
        else:
            event, hopeless = said, True
        # A refusal is reported once: the drag comes over the next window, too.
        if not hopeless or self._refusals.take(trio.current_time()):
            await self._clipboard.put(self, event)

    async def _drag_asked(
        self, said: messages.DragDropped | messages.DragWantedMessage
    ) -> None:
        """Feed a drop, or a request for dragged content, to the exchange."""
        if not self._pace.take(trio.current_time()):
            self.give(w.WorkerOrder(self.lease.sandbox, messages.EndDrag(said.number)))
        elif isinstance(said, messages.DragWantedMessage):
            terms = await self._clipboard.dragged_out(self.lease)
            wanted = w.DragWanted(said.number, said.mark, said.name, terms)
            await self._clipboard.put(self, wanted)
        else:
            await self._clipboard.put(self, said)

    async def confirm(self) -> None:
        """Have the worker confirm its focus; withdraw its claim if it does not answer.

        A worker that is deaf does not know that it lost the keyboard.  A worker that answers
        late gets its claim back if a window of it has the keyboard still.
        """
        worker, gone = self.guest.worker, messages.ClipboardFocus(taken=False)
        if worker is None or self._confirming:
            return
        self._confirming = silent = True
        try:
            with trio.move_on_after(limits.CLIPBOARD_CLAIM_SECONDS):
                await worker.windows()
                silent = False
            # guard: a deaf worker claims no focus
            if silent:
                await self._clipboard.put(self, gone)
                if any(window.focused for window in await worker.windows()):
                    await self._clipboard.put(self, messages.ClipboardFocus(taken=True))
        except UpstreamError:
            await self._clipboard.put(self, gone)
        finally:
            self._confirming = False

    @override
    async def gone(self) -> None:
        """Its worker has ended, with its windows and all that they offered."""
        self.trouble = ""
        await self._clipboard.put(self, w.SandboxGone())

    def give(self, order: w.WorkerOrder) -> None:
        """Queue an order for this sandbox's worker; blame it if its queue is full."""
        try:
            self._orders.send_nowait(order)
        except trio.ClosedResourceError:
            return
        except trio.WouldBlock:
            # guard: a worker that takes no orders
            self._clipboard.start(self.blame, "it does not accept clipboard orders")

    async def run(self) -> None:
        """Send queued orders to the current worker, until cancelled."""
        async for order in self._pending:
            mine = self.guest.worker
            if mine is None:
                continue  # it has ended, and the crossing hears of that
            try:
                await clipboard_member.send_order(mine, order)
            except UpstreamError:
                continue  # the same

    def close(self) -> None:
        """Its lease has ended; nothing more is to be ordered."""
        self._orders.close()

    async def follow(self) -> None:
        """Send the present chords to the worker."""
        await self._tell(self.chords())

    async def follow_rules(self) -> None:
        """Send the present rules for drags to the worker, if they have changed."""
        # guard: rules for drags that change again
        async with self._telling:
            if self._told is None:
                return
            now = await self._clipboard.drags_of(self.lease)
            if now != self._told:
                self._told = now
                await self._tell(now)

    async def _tell(
        self, order: messages.ChordsMessage | messages.DragsMessage
    ) -> None:
        """Send new chords or drag settings to the sandbox's worker, if it has one."""
        mine = self.guest.worker
        if mine is None:
            return
        try:
            await mine.send(order)
        except UpstreamError:
            return  # it has ended; the next one learns at its start

    async def blame(self, reason: str) -> None:
        """Its worker sent a message that ours never send: it is compromised."""
        text = f"clipboard: {reason}"
        await self.guest.screen.broke(text)
        if self.guest.worker is not None:
            await self.guest.worker.close(text)


class ClipboardService:
    """Carries out the actions of ``exchange``, one after the other."""

    def __init__(
        self,
        *,
        decider: Permits,
        log: event_log.EventLog,
        record: Callable[[Lease], Record | None],
        choose: Callable[[], Awaitable[ChordChoice]],
    ) -> None:
        self._terms = Terms(decider, record)
        self.notify: Notify = decider.notify
        self._log = log
        self._choose = choose
        self.choice = DEFAULT
        """The chords in force."""
        self._telling = Telling(
            log, self._lease, self._tell_person, lambda: self.choice.paste
        )
        hashes = bool(log.content_digest(b""))
        self._core = Crossing(log.content_digest if hashes else None, _new_mark)
        self._parties: dict[str, Party] = {}
        self.carriers = FileCarriers(self._guest, self._tell_person)
        self._asking: dict[int, trio.CancelScope] = {}
        self._changed = trio.Event()
        self._drag_began = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._told: set[str] = set()
        self._put, self._events = trio.open_memory_channel[_Posted](
            limits.CLIPBOARD_ORDERS
        )

    def _tell_person(self, title: str, text: str, *, sandbox: str = "") -> None:
        self.notify(title, text, sandbox=sandbox)

    def _lease(self, name: str) -> Lease | None:
        party = self._parties.get(name)
        return party.lease if party else None

    def _guest(self, name: str) -> Guest | None:
        party = self._parties.get(name)
        return party.guest if party else None

    # -- its life ----------------------------------------------------------------------

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Feed queued events to the exchange; carry out its actions until cancelled."""
        try:
            await self.choose_again()
        except VitrailError as error:
            log_exception(error)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._tick)
            task_status.started()
            async with self._events:  # a later post fails at once
                async for sandbox, event, done in self._events:
                    await self._feed(sandbox, event)
                    if done is not None:
                        done.set()

    async def _post(
        self, sandbox: str, event: w.Event, done: trio.Event | None = None
    ) -> bool:
        """Queue an event; return False when the clipboard has ended."""
        try:
            await self._put.send((sandbox, event, done))
        except trio.BrokenResourceError:
            return False
        return True

    def start(self, step: Callable[..., Awaitable[None]], *args: object) -> None:
        """Do something beside, whose failure ends nothing else."""
        if self._nursery is not None:
            # A mistake about one paste must not end the clipboard.
            self._nursery.start_soon(run_isolated, step, *args)

    async def _tick(self) -> None:
        """Feed ``Ticked`` to the exchange at each deadline, until cancelled."""
        while True:
            self._changed = trio.Event()
            deadline = self._core.deadline
            due = True
            with trio.move_on_at(float("inf") if deadline is None else deadline):
                await self._changed.wait()
                due = False
            if due:
                await self._post("", w.Ticked())
                await self._changed.wait()

    # -- who takes part -----------------------------------------------------------------

    def begin(self, guest: Guest) -> None:
        """A sandbox was leased."""
        party = self._parties[guest.lease.sandbox] = Party(self, guest)
        guest.crossing = party
        self.start(party.run)

    async def lease_ended(self, lease: Lease) -> None:
        """Forget the clipboard state of an ended sandbox, whose name may be reused."""
        party = self._parties.get(lease.sandbox)
        # guard: the end of an old lease leaves its successor's clipboard
        if party is not None and party.lease == lease:
            party.close()
            del self._parties[lease.sandbox]
            await self._post(lease.sandbox, w.SandboxGone())

    async def put(self, party: Party, event: w.Event) -> None:
        """Something happened; waits while much is to be done."""
        # guard: words after the end
        if self._parties.get(party.lease.sandbox) is party:
            await self._post(party.lease.sandbox, event)

    async def pressed(self, lease: Lease, chord: messages.ChordPressed) -> w.Event:
        """Return the event of a chord, with the current terms."""
        if chord.paste:
            return w.PastePressed(await self._terms.inward(lease), chord.desktop)
        terms = await self._terms.copy(lease)
        outward = await self._terms.outward(lease)
        # guard: a window's title in a notification is one short line
        title = printable(chord.window, _TITLE_CHARACTERS)
        return w.CopyPressed(terms, chord.press, outward, title, chord.desktop)

    async def drags_of(self, lease: Lease) -> messages.DragsMessage:
        """Which of its drags may cross."""
        cross, outward = await self._terms.drags(lease)
        return messages.DragsMessage(cross, outward)

    def knows(self, mark: str) -> bool:
        """Return whether a drag that a worker reported with this mark is still known."""
        return bool(self._core.dragged_by(mark))

    async def wait_known(self, mark: str) -> None:
        """Return when a worker has reported it."""
        while not self.knows(mark):
            await self._drag_began.wait()

    async def dragged_over(
        self, lease: Lease, said: messages.DragOverMessage
    ) -> w.DragOver:
        """Return the event of a drag over a window, with the current terms."""
        name = self._core.dragged_by(said.mark)
        source = self._lease(name)
        terms, reason = None, ""
        # Its own comes as no drag from elsewhere, whatever a rule about it says.
        # guard: a drag over its source's windows asks no rule
        if name == w.VIEWER and said.files:
            terms, reason = await self._terms.files(lease, said.files)
        elif name == w.VIEWER or (source is not None and name != lease.sandbox):
            terms = await self._terms.dragged(source, lease)
        return w.DragOver(said.number, said.mark, terms, reason)

    async def dragged_out(self, lease: Lease) -> w.CopyTerms | None:
        """Return the terms of a drag to the user's programs; None: not allowed."""
        return await self._terms.dragged(lease, None)

    def troubled(self, party: Party) -> None:
        """Notify the user, once for each reason, that chords fail in a sandbox."""
        reason = party.trouble
        if not reason or reason in self._told or len(self._told) >= _ALL_TROUBLES:
            return
        # guard: troubles with chords have a budget for each sandbox
        if party.troubles >= _TROUBLES:
            return
        party.troubles += 1
        self._told.add(reason)
        self.notify("Vitrail: no key combinations for the clipboard", reason)

    # -- the user and the files -------------------------------------------------------------

    async def clear(self) -> None:
        """Wipe all, as the user says; returns when it is wiped."""
        done = trio.Event()
        if await self._post("", w.Cleared(), done):
            await done.wait()

    def status(self) -> TransferStatus:
        """The state of held and offered content; not the content."""
        return self._core.status(trio.current_time())

    @property
    def focused(self) -> str:
        """Which sandbox has the keyboard; empty: none, or more than one says so."""
        return self._core.focused or ""

    def troubles(self) -> Iterator[tuple[str, str]]:
        """Sandbox and reason, where chords do not work."""
        for name, party in sorted(self._parties.items()):
            if party.trouble:
                yield name, party.trouble

    async def choose_again(self) -> ChordChoice:
        """Read the user's choice of chords, and send it to every worker."""
        self.choice = await self._choose()
        async with trio.open_nursery() as nursery:
            for party in self._parties.values():
                nursery.start_soon(party.follow)
        return self.choice

    async def decide_again(self) -> None:
        """Withdraw content that changed rules or records deny."""
        for party in self._parties.values():
            self.start(party.follow_rules)
        for target, transfer, source, kinds in self._core.standing:
            there, here = self._lease(target), self._lease(source)
            if there is None or (here is None and source != w.VIEWER):
                continue
            try:
                why = await self._terms.record_allows(here, there, kinds)
            # guard: a failed second decision denies the copy
            except Exception as error:  # noqa: BLE001 -- any failure is a denial
                log_exception(error)
                why = "an internal error prevented a decision"
            if why:
                # guard: rules that change
                await self._post(target, w.ConsentRevoked(transfer, why))

    # -- doing ---------------------------------------------------------------------------

    async def _feed(self, sandbox: str, event: w.Event) -> None:
        """Feed an event to the exchange and do its actions; wipe all on an error."""
        actions = self._core.feed(sandbox, event, trio.current_time())
        try:
            for action in actions:
                await self._do(action)
        except Exception as error:  # noqa: BLE001 -- it must not end every sandbox
            log_exception(error)
            for action in actions:
                # guard: a program that asks for dropped content gets its end after an error
                if isinstance(action, w.WorkerOrder) and isinstance(
                    action.message, messages.Serve
                ):  # the asking client waits for an end
                    end = messages.EndDrag(action.message.number)
                    self._give(w.WorkerOrder(action.sandbox, end))
            await self._wipe()
        self._forget_undecided()
        self._changed.set()
        if event == messages.ClipboardFocus(taken=True):
            for name in self._core.claims - {sandbox}:
                if name in self._parties:
                    self.start(self._parties[name].confirm)
        if isinstance(event, messages.DragStarted):
            self._drag_began.set()
            self._drag_began = trio.Event()

    async def _wipe(self) -> None:
        """Wipe all content and tell the user, after a failed recording or our error.

        Nothing may be on offer of which the log knows nothing.
        """
        text = "the audit log could not be written, or an internal error occurred"
        self.notify("Clipboard wiped", text)
        for action in self._core.feed("", w.EpochChanged(), trio.current_time()):
            if isinstance(action, w.WorkerOrder) and not action.items:
                await self._do(action)

    async def _do(self, action: w.Action) -> None:
        """Do one action: record, ask policy, carry files, or order a worker."""
        match action:
            case w.RecordCrossing():
                # Each copy asks whether it may become the user's own too; where
                # the rules deny that, the refusal is not reported.
                if not (action.by_policy and action.target == w.VIEWER):
                    await self._telling.tell(action)
            case w.AskPolicy():
                scope = self._asking[action.transfer] = trio.CancelScope()
                self.start(self._decide, action, scope)
            case w.Blame(sandbox, reason):
                party = self._parties.get(sandbox)
                if party is not None:
                    # guard: a worker that lies is ended
                    self.start(party.blame, reason)
            case w.CarryFiles():
                self.start(self.carriers.pasted, action)
            case w.CarryDropped():
                self.start(self.carriers.dropped, action)
            case _:
                self._give(action)

    def _give(self, order: w.WorkerOrder) -> None:
        party = self._parties.get(order.sandbox)
        if party is not None:
            party.give(order)

    def _forget_undecided(self) -> None:
        """Cancel the questions about cancelled operations."""
        for transfer in self._asking.keys() - self._core.undecided:
            # guard: questions without a waiter
            self._asking.pop(transfer).cancel()

    async def _decide(self, action: w.AskPolicy, scope: trio.CancelScope) -> None:
        """Have the authority decide about a step, and go on with the answer."""
        with scope:
            decided = await self._answer(action)
            self._asking.pop(action.transfer, None)
            await self._post("", decided)

    async def _answer(self, action: w.AskPolicy) -> w.Decided:
        """Ask for the permission that an action needs; return the decision."""
        no = partial(w.Decided, action.transfer, None)
        parties = (action.source, action.target, action.origin)
        leases = [self._lease(name) for name in parties]
        for name, lease in zip(parties, leases, strict=True):
            if name not in {"", w.VIEWER} and lease is None:
                return no(reasons.GONE)
        try:
            terms = await self._terms.decide(action, *leases)
        except RefusedError as error:
            where = f" ({error.where})" if error.where else ""
            return no(f"{error.message.removeprefix('denied: ')}{where}")
        except VitrailError as error:
            return no(str(error))
        except Exception as error:  # noqa: BLE001 -- any failure is a denial
            log_exception(error)
            return no("an internal error prevented a decision")
        return w.Decided(action.transfer, terms)


def _new_mark() -> str:
    return MARK + secrets.token_hex(_MARK_BYTES)
