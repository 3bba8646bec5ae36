"""One sandbox uses up what all of them share: log, names in it, notifications, sound.

Each attack runs on the core that decides, with the clock passed in; the last ones
on a real log.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, suppress

import pytest
import trio
from msgspec.structs import replace

from broker.authority.audit.refusals import Counter
from broker.authority.audit.shares import LogShares, cost
from broker.authority.questions.desktop import Budgets, Desktop
from broker.authority.questions.queue import Queue
from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.limits import audit as audit_limits
from broker.core.limits import sound as pulse_limits
from broker.core.question import Keep, PersonAnswer
from broker.ipc.audit import schema
from broker.net.connection_quota import SoundPlaces, SoundServerPlaces
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.outcomes import Telling
from tests.kit.helper_starter import ended_starter
from tests.kit.prompting import question
from tests.kit.rulebook import VAULT, rulebook

HOUR = 3600.0


def refusal(sandbox: str, reason: str) -> schema.StreamRefused:
    return schema.StreamRefused(
        sandbox=sandbox, service="vitrail.Display", reason=reason
    )


# -- refusals ----------------------------------------------------------------------------


def flood_refusals(counter: Counter, seconds: int) -> tuple[list[schema.Event], int]:
    """One sandbox varies its requests; another is refused once in each second."""
    events: list[schema.Event] = []
    for second in range(seconds):
        for number in range(500):
            now = second + number / 500
            flood = refusal("flood", f"no such service {second}.{number}")
            events += counter.take(flood, now)
        events += counter.take(refusal("quiet", f"number {second}"), second + 0.999)
    return events + counter.flush(), seconds


def test_a_flood_of_refusals_leaves_the_others_their_names() -> None:
    events, quiet = flood_refusals(Counter(), 60)
    named = [event for event in events if event.sandbox == "quiet"]
    assert sum(event.count for event in named) == quiet
    first = [
        event.reason for event in named[: audit_limits.AUDIT_REFUSAL_KEYS_PER_SANDBOX]
    ]
    assert first == [f"number {n}" for n in range(len(first))]
    assert all(event.sandbox for event in events)


def test_a_flood_of_refusals_is_a_small_part_of_the_log() -> None:
    """A day of ever new ones: counted in a hundredth of the steps."""
    counter = Counter()
    events: list[schema.Event] = []
    for minute in range(24 * 60):
        for number in range(100):
            flood = refusal("flood", f"{minute}.{number}")
            events += counter.take(flood, minute * 60 + number * 0.6)
    events += counter.flush()
    written = sum(cost(event) for event in events)
    assert sum(event.count for event in events) == 24 * 60 * 100
    assert written < 40 << 20


# -- allowed -----------------------------------------------------------------------------


def stream_cost(sandbox: str) -> int:
    """A decision, its stream's beginning and its end."""
    subject = {
        "sandbox": sandbox,
        "lease": "0123456789abcdef",
        "service": "vitrail.Display",
        "peer": "hybrid:/run/user/1000/vitrail/sandboxes/x/vsock/vm.vsock",
        "stream": 1 << 20,
    }
    rule = "/home/ada/.config/vitrail/sandboxes.d/x.toml:6:1"
    policy = "0" * 64
    events: list[schema.Event] = [
        schema.Decision(
            **subject, verdict=schema.EventVerdict.ALLOW, rule=rule, policy=policy
        ),
        schema.StreamOpened(**subject, mode="worker"),
        schema.StreamClosed(
            **subject,
            outcome="closed",
            reason="end",
            bytes_from_sandbox=1 << 20,
            bytes_to_sandbox=1 << 20,
            seconds=0.1,
        ),
    ]
    return sum(cost(event) for event in events)


def open_streams(shares: LogShares, sandbox: str, begin: float, seconds: float) -> int:
    """Open streams as fast as they are decided; returns what the log took."""
    each, written = stream_cost(sandbox), 0
    for step in range(int(seconds * limits.STREAMS_PER_SECOND)):
        now = begin + step / limits.STREAMS_PER_SECOND
        try:
            shares.check(sandbox, now)
        except RefusedError:
            continue
        shares.charge(sandbox, each, now)
        written += each
    return written


def test_allowed_streams_do_not_roll_the_log_over() -> None:
    """It was 1 GiB in half an hour."""
    written = open_streams(LogShares(), "flood", 0.0, HOUR / 2)
    assert written < 24 << 20


def test_others_go_on_when_some_have_used_up_everything() -> None:
    shares = LogShares()
    for number in range(20):
        open_streams(shares, f"flood-{number}", 10.0 * number, 60)
    with pytest.raises(RefusedError, match="share of the audit log"):
        shares.check("flood-0", 260.0)
    for step in range(200):
        shares.check("quiet", 260.0 + step)
        shares.charge("quiet", stream_cost("quiet"), 260.0 + step)
    shares.charge("", 1 << 30, 500.0)
    shares.check("newcomer", 500.0)


def test_all_shares_together_are_bounded() -> None:
    """Twenty sandboxes that share their knowledge, for half an hour."""
    shares, written = LogShares(), 0
    for number in range(20):
        written += open_streams(shares, f"flood-{number}", 90.0 * number, 90)
    floors = 20 * audit_limits.AUDIT_SHARE_FLOOR_BYTES
    assert written < audit_limits.AUDIT_SHARES_BYTES + floors + (32 << 20)


def test_a_share_is_remembered_beside_any_number_of_others() -> None:
    shares = LogShares()
    open_streams(shares, "flood", 0.0, 60)
    for number in range(2 * limits.LEASES):
        shares.charge(f"box-{number}", 1, 61.0)
    shares.charge("flood", stream_cost("flood"), 61.0)
    with pytest.raises(RefusedError):
        shares.check("flood", 61.1)


async def test_a_used_up_share_denies_streams_and_not_the_persons_hand(
    autojump_clock: trio.abc.Clock,
) -> None:
    """With a real log: the refusal is counted in it, and others are let in."""
    async with rulebook() as b:
        decider = b.decider
        share = decider._log._shares
        share.charge("work", 2 * audit_limits.AUDIT_SHARE_BYTES, trio.current_time())
        with pytest.raises(RefusedError, match="share of the audit log"):
            await b.once("vitrail.Display")
        assert await b.once("vitrail.Display", lease=VAULT) == "dom0"
        await trio.sleep(10 * HOUR)
        assert await b.once("vitrail.Display") == "dom0"


# -- notifications -----------------------------------------------------------------------


def test_notifications_of_one_sandbox_leave_the_others_theirs() -> None:
    budgets = Budgets()
    sent = [budgets.take("flood", 0.1 * n) is not None for n in range(100)]
    assert sum(sent) == limits.NOTIFICATIONS_PER_SANDBOX
    assert budgets.take("quiet", 11.0) == 0
    later = budgets.take("flood", 90.0)
    assert later == 100 - limits.NOTIFICATIONS_PER_SANDBOX


def test_sandboxes_together_leave_a_notification_to_another() -> None:
    """Three of them used up each minute's."""
    budgets = Budgets()
    for sandbox in ("red", "green", "blue"):
        for number in range(9):
            budgets.take(sandbox, 0.1 * number)
    assert budgets.take("quiet", 11.0) == 0


async def test_notifications_about_disposables_are_their_records(
    autojump_clock: trio.abc.Clock,
) -> None:
    told = Desktop(ended_starter(), lambda name: name.partition("-")[0])
    for number in range(9):
        told.notify("refused", "", sandbox=f"web-{number}")
    assert len(told._others) == limits.NOTIFICATIONS_PER_SANDBOX


async def test_refusals_hide_no_crossing(autojump_clock: trio.abc.Clock) -> None:
    """All sandboxes together provoke all notifications that they can; then something is pasted."""
    told = Desktop(ended_starter())
    sent: list[str] = []
    telling = Telling(_Silent(), lambda _: None, told.notify, lambda: "Super+V")
    record = w.RecordCrossing(
        outcome=w.Outcome.REFUSED, source="a", target="flood", kinds=("text/plain",),
        size=1, reason="denied",
    )  # fmt: skip
    for number in range(64):
        await telling.tell(replace(record, target=f"flood-{number}"))
    await telling.tell(replace(record, outcome=w.Outcome.PASTED))
    while told._persons or told._others:
        sent.append((await told._next())[0])
    assert sent[0].endswith("a → flood"), "before everything else that waits"
    assert len(sent) == 1 + limits.NOTIFICATIONS_PER_MINUTE


class _Silent:
    """A log that takes everything."""

    async def require(self, event: schema.Event) -> None:
        pass

    note = refused = require


# -- sound -------------------------------------------------------------------------------


def test_sound_connections_leave_places_on_the_server() -> None:
    server = SoundServerPlaces()
    with ExitStack() as held:
        for number in itertools.count():
            places = SoundPlaces(server, f"record-{number}")
            taken = 0
            for _ in range(pulse_limits.PULSE_CONNECTIONS + 1):
                try:
                    held.enter_context(places.one())
                except RefusedError:
                    break
                taken += 1
            if number > 2 and taken < pulse_limits.PULSE_CONNECTIONS_FEW:
                break
            assert number < 40
            if number == 2:
                assert server.taken == pulse_limits.PULSE_CONNECTIONS_ALL - (
                    pulse_limits.PULSE_CONNECTIONS_KEPT
                    - pulse_limits.PULSE_CONNECTIONS_FEW
                )
        assert server.taken == pulse_limits.PULSE_CONNECTIONS_ALL < 64
    assert server.taken == 0


def test_disposables_leave_sound_to_another_record() -> None:
    """Eleven of one record took all 48, four of them where few had any."""
    server = SoundServerPlaces()
    with ExitStack() as held:
        for _ in range(20):
            places = SoundPlaces(server, "web")
            with suppress(RefusedError):
                for _ in range(pulse_limits.PULSE_CONNECTIONS + 1):
                    held.enter_context(places.one())
        other = SoundPlaces(server, "music")
        for _ in range(pulse_limits.PULSE_CONNECTIONS_FEW):
            held.enter_context(other.one())


# -- questions ---------------------------------------------------------------------------


def test_disposables_leave_questions_to_another() -> None:
    """One record may have eight, each with four questions: others were refused unasked."""
    queue, now = Queue(), 0.0
    for number in range(limits.MACHINES_PER_ORIGIN):
        for argument in range(limits.QUESTIONS_PER_SANDBOX):
            now += 1.5  # its pace would let nine of them in
            mine = question(
                sandbox=f"web-{number}",
                lease=f"w{number}",
                record="web",
                argument=str(argument),
            )
            queue.ask(mine, now)
    assert len(queue.all()) == limits.QUESTIONS_PER_SANDBOX
    asker = queue.ask(question(sandbox="mail", lease="m", record="mail"), now)
    assert isinstance(asker, int)


def test_disposables_that_follow_each_other_have_no_new_questions() -> None:
    queue, dialogs = Queue(), 0
    for number in range(20):
        mine = question(sandbox=f"web-{number}", lease=f"w{number}", record="web")
        dialogs += isinstance(queue.ask(mine, number / 10), int)
        queue.forget(f"w{number}")
    assert dialogs == limits.QUESTIONS_BURST


def test_records_together_leave_a_question_to_another() -> None:
    queue = Queue()
    for sandbox in range(8):
        for argument in range(limits.QUESTIONS_PER_SANDBOX):
            mine = question(
                sandbox=f"s{sandbox}",
                lease=f"s{sandbox}",
                record=f"s{sandbox}",
                argument=str(argument),
            )
            queue.ask(mine, 0.0)
    assert isinstance(queue.ask(question(lease="m", record="mail"), 1.0), int)


# -- answers -----------------------------------------------------------------------------


def test_one_once_answers_one_of_many_equal_requests() -> None:
    """Sixty-four at once, and the person has seen one dialog and said yes once."""
    queue = Queue()
    asked = question(sandbox="work", lease="work", keeps=(Keep.ONCE,))
    askers = [queue.ask(asked, 0.0) for _ in range(limits.QUESTION_ASKERS)]
    assert len(queue.all()) == 1
    yes = PersonAnswer(allow=True, target=asked.targets[0], by="person")
    allowed, dialogs = [], 0
    for second in range(10):
        for number in askers:
            assert isinstance(number, int)
            queue.release(number)
        entry = queue.front()
        if entry is None:
            break
        dialogs += 1
        answered = queue.answer(entry.id, yes, float(second))
        allowed += [asker for asker, answer in answered if answer.allow]
    assert len(allowed) == len(set(allowed)) == dialogs == limits.QUESTIONS_BURST
