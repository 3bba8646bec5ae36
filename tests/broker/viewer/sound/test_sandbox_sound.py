"""The supervisor's part of a sandbox's sound, with a worker made of paper."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core.errors import RefusedError, UpstreamError
from broker.core.lease import Opening
from broker.core.limits import audit as audit_limits
from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import Level
from broker.ipc import worker
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.net.connection_quota import SoundPlaces, SoundServerPlaces
from broker.viewer.sound.levels import load_level, save_level
from broker.viewer.sound.sandbox_sound import REVOKED_SECONDS, GuestSound
from broker.viewer.stream_reply import OpeningReply, no_waiter
from policy.tools.record_files import parse_record
from tests.kit.eventually import eventually
from tests.kit.link.roles import LEASE, journal
from tests.kit.session import permit_of, starter_of_orders
from tests.kit.world import record

AUDIO = '[audio]\nplayback = "allow"\nmicrophone = "allow"\n'
State = partial(worker.SoundState, 1, 0, application="app", source="mic", missing="")


class PaperWorker:
    """Remembers its orders; obeys those about the microphone."""

    def __init__(self, sound: list) -> None:
        self.orders: list = []
        self.obeys = True
        self.closed = ""
        self._sound = sound

    async def send(self, order, fds=()):
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise UpstreamError("it has ended")
        self.orders.append(order)
        if isinstance(order, worker.MicrophoneOrder) and self.obeys:
            await self._sound[0].take(worker.MicrophoneSet(order.number))

    async def close(self, reason):
        self.closed = reason
        self._sound[0].worker_gone()

    def heard(self):
        return [
            o.hearing.value
            for o in self.orders
            if isinstance(o, worker.MicrophoneOrder)
        ]


async def test_rules_that_were_given_up_half_way_are_sent_later(tmp_path):
    """A stream that is cut meanwhile takes no revocation with it."""
    text = record("persistent", top=AUDIO + "volume = 10\n").encode()
    after, _ = parse_record("a", tmp_path / "a.toml", text)
    async with sound(tmp_path) as (made, paper, _):
        with trio.move_on_after(0):
            await made.follow_record(after)
        await made.follow_record(after)
        assert paper.orders[-1].rules.volume < paper.orders[0].rules.volume


class Decider:
    """Sends the given messages."""

    def __init__(self) -> None:
        self.verdict = "allow"
        self.asked = 0
        self.scope: trio.CancelScope | None = None

    @asynccontextmanager
    async def permit(self, request):
        assert request.service == "vitrail.AudioInput"
        self.asked += 1
        if self.verdict == "deny":
            raise RefusedError("a rule says no")
        with trio.CancelScope() as self.scope:
            yield None
        if self.scope.cancelled_caught:
            raise RefusedError("cut")


@asynccontextmanager
async def sound(tmp_path, microphone="allow", session=None):
    """A sound with a worker that knows its rules, and a decider."""
    top = AUDIO.replace('microphone = "allow"', f'microphone = "{microphone}"')
    text = record("persistent", top=top).encode()
    mine, _ = parse_record("a", tmp_path / "a.toml", text)
    holder: list = []
    paper = PaperWorker(holder)
    async with journal(tmp_path) as log, trio.open_nursery() as nursery:

        async def ensure():
            return paper

        made = GuestSound(
            LEASE,
            lambda: mine,
            log,
            ensure_worker=ensure,
            start=nursery.start_soon,
            session=session,
            levels=lambda: tmp_path / "levels",
            revoked={},
            places=SoundServerPlaces(),
        )
        holder.append(made)
        made.decider = decider = Decider()
        await made._worker_with_rules(mine)
        yield made, paper, decider
        nursery.cancel_scope.cancel()


async def test_the_rules_come_from_the_record(tmp_path):
    async with sound(tmp_path) as (_, paper, _):
        (order,) = paper.orders
        assert (order.rules.name, order.rules.microphone, order.rules.revoked) == (
            LEASE.sandbox,
            "ask",
            "silence",
        )
        assert (order.rules.streams, order.rules.volume, order.level.volume) == (
            16,
            65536,
            65536,
        )


async def test_a_wish_is_asked_about_and_the_permission_ends_with_it(tmp_path):
    async with sound(tmp_path) as (made, paper, decider):
        await made.take(State(wanted=True, active=False))
        await wait_all_tasks_blocked()
        assert (decider.asked, paper.heard(), made.status().allowed) == (
            1,
            ["allow"],
            True,
        )
        await made.take(State(wanted=False, active=False))
        await wait_all_tasks_blocked()
        assert (paper.heard(), made.status().allowed) == (["allow", "rest"], False)
        await made.take(State(wanted=True, active=False))
        await wait_all_tasks_blocked()
        assert decider.asked == 2


async def test_a_cut_permission_is_told_at_once_and_not_asked_for_again(tmp_path):
    async with sound(tmp_path) as (made, paper, decider):
        await made.take(State(wanted=True, active=True))
        await wait_all_tasks_blocked()
        decider.scope.cancel()
        await wait_all_tasks_blocked()
        assert paper.heard()[:2] == ["allow", "deny"]
        assert decider.asked == 1
        assert not made.status().allowed


async def test_a_no_is_a_no(tmp_path):
    async with sound(tmp_path) as (made, paper, decider):
        decider.verdict = "deny"
        await made.take(State(wanted=True, active=False))
        await wait_all_tasks_blocked()
        assert paper.heard() == ["deny"]
        assert decider.asked == 1


async def test_another_record_is_told_to_the_worker_that_runs(tmp_path):
    async with sound(tmp_path) as (made, paper, _):
        before = made._record()
        await made.follow_record(before)
        assert len(paper.orders) == 1  # nothing is new
        top = '[audio]\nplayback = "allow"\nmicrophone = "deny"\nrate = 44100\n'
        text = record("persistent", top=top).encode()
        after, _ = parse_record("a", tmp_path / "a.toml", text)
        await made.follow_record(after)
        order = paper.orders[-1]
        assert (order.rules.microphone, order.rules.rate) == ("deny", 44100)
        await made.follow_record(after)
        assert len(paper.orders) == 2
        paper.closed = "gone"
        await made.follow_record(before)  # it has ended: the next one is told
        made.worker_gone()
        await made.follow_record(after)
        assert len(paper.orders) == 2


async def test_a_record_that_changes_while_the_worker_is_told(tmp_path):
    async with sound(tmp_path) as (made, paper, _):
        made.worker_gone()
        old = made._record()
        top = '[audio]\nplayback = "allow"\nmicrophone = "deny"\n'
        text = record("persistent", top=top).encode()
        new, _ = parse_record("a", tmp_path / "a.toml", text)
        made._record = lambda: new
        await made._worker_with_rules(old)
        assert [order.rules.microphone for order in paper.orders[-2:]] == [
            "ask",
            "deny",
        ]


async def test_the_person_takes_it_away_and_cannot_give_it(tmp_path):
    async with sound(tmp_path) as (made, paper, _):
        await made.take(State(wanted=True, active=False))
        await wait_all_tasks_blocked()
        with trio.fail_after(30):
            await made.set_microphone(allow=False)
        assert paper.heard() == ["allow", "deny"]
        with pytest.raises(RefusedError, match="rules"):
            await made.set_microphone(allow=True)


async def test_microphone_taken_back_is_refused_for_a_minute(tmp_path, autojump_clock):
    """A rule that allows it would open it again with the sandbox's next recording."""
    async with sound(tmp_path) as (made, _, decider):
        await made.take(State(wanted=True, active=False))
        await wait_all_tasks_blocked()
        await made.set_microphone(allow=False)
        refusals = []
        made.refused = lambda service, reason: refusals.append((service, reason))

        async def record_again():
            await made.take(State(wanted=False, active=False))
            await wait_all_tasks_blocked()
            await made.take(State(wanted=True, active=False))
            await wait_all_tasks_blocked()

        await record_again()
        assert not made.status().allowed
        assert decider.asked == 1
        ((service, reason),) = refusals
        assert service == "vitrail.AudioInput"
        assert "revoked access" in reason
        await trio.sleep(REVOKED_SECONDS + 1)
        await record_again()
        assert made.status().allowed
        assert decider.asked == 2


async def test_a_worker_that_does_not_obey_a_revoke_is_ended(tmp_path, autojump_clock):
    async with sound(tmp_path) as (made, paper, decider):
        await made.take(State(wanted=True, active=True))
        await wait_all_tasks_blocked()
        paper.obeys = False
        decider.scope.cancel()
        await trio.sleep(10)
        assert paper.closed


async def test_a_worker_that_says_it_hears_on_after_a_revoke_is_ended(
    tmp_path, autojump_clock
):
    """The button's press gets an answer."""
    async with sound(tmp_path) as (made, paper, _):
        await made.take(State(wanted=False, active=True))
        await made.set_microphone(allow=False)
        assert (
            paper.closed == "it reported that it is recording from a forbidden source"
        )
        assert not made.status().active


@pytest.mark.slow
async def test_a_worker_that_takes_its_words_back_all_the_time_is_heard_slowly(
    tmp_path, autojump_clock
):
    """Each of them is an event: they must not push others out of the log."""
    async with sound(tmp_path) as (made, _, _):
        began = trio.current_time()
        for turn in range(limits.PULSE_STATES_BURST):
            await made.take(State(wanted=False, active=turn % 2 == 0))
        assert trio.current_time() == began
        for turn in range(100):
            await made.take(State(wanted=False, active=turn % 2 == 0))
        took = trio.current_time() - began
        assert took == pytest.approx(100 / limits.PULSE_STATES_PER_SECOND)


async def test_a_microphone_that_goes_on_and_off_fills_no_log(tmp_path, autojump_clock):
    """A day of it, by a worker that was taken over: then it counts as refused."""
    async with sound(tmp_path) as (made, _, _):
        name = made._lease.sandbox
        used = audit_limits.AUDIT_SHARE_BYTES - 4096
        made._log._shares.charge(name, used, trio.current_time())
        for turn in range(1000):
            await made.take(State(wanted=False, active=turn % 2 == 0))
        kinds = ("microphone.on", "microphone.off")
        with open_log(tmp_path / "audit.sqlite") as log:
            assert 2 <= len([*log.find(Filters(kinds=kinds))]) < 600
            refused = [*log.find(Filters(kinds=("stream.refused",)))]
        assert "share of the audit log" in refused[0].fields()["reason"]


async def test_what_a_worker_makes_up_costs_nothing(tmp_path):
    async with sound(tmp_path) as (made, _, _):
        await made.take(worker.SoundClosed(99, 1, 1, "x"))
        await made.take(worker.MicrophoneSet(99))
        assert not made._ends
        assert not made._orders
        made.worker_gone()
        assert made.status().streams == 0


async def test_a_level_is_kept_and_told(tmp_path):
    async with sound(tmp_path) as (made, paper, _):
        await made.set_level(Level(1000, muted=True))
        assert paper.orders[-1] == worker.SoundLevel(1000, muted=True)
        assert load_level(tmp_path / "levels", LEASE.record) == Level(1000, muted=True)


class CountedOrders:
    """Orders of a viewer, carried out as they are, and how many were given."""

    def __init__(self, session) -> None:
        self.given = 0
        self._session = session

    def carrying_out(self, row, order, *, warrant):
        self.given += 1
        return self._session.carrying_out(row, order, warrant=warrant)


class Streams:
    """Connections to sound, one after the other, and what became of each."""

    def __init__(
        self, made: GuestSound, nursery: trio.Nursery, orders: CountedOrders
    ) -> None:
        self.orders = orders
        self.refused: dict[int, str] = {}
        self.programs: dict[int, socket.socket] = {}
        self.began: list[int] = []
        self._made = made
        self._nursery = nursery
        self._over: dict[int, trio.Event] = {}
        self._more = trio.Event()

    async def start(self, number: int) -> None:
        """Returns when it has been taken or refused."""
        self._over[number] = trio.Event()
        await self._nursery.start(self._one, number)

    async def wait_begun(self, number: int) -> None:
        """Returns when it was said that it is open."""
        while number not in self.began:
            await self._more.wait()

    async def wait_over(self, number: int) -> None:
        """Returns when it has ended."""
        await self._over[number].wait()

    async def end(self, number: int) -> None:
        """Its worker says that it is closed; returns when it is gone."""
        await self._made.take(worker.SoundClosed(number, 0, 0, "closed"))
        await self._over[number].wait()

    async def _one(self, number, task_status):
        ours, theirs = socket.socketpair()
        self.programs[number] = theirs
        opening = Opening(LEASE, "vitrail.Audio", number, "a test")

        status = OpeningReply(task_status, no_waiter)

        async def say():
            await status.say()
            self.began.append(number)
            self._more.set()
            self._more = trio.Event()

        with ours, theirs:
            try:
                async with self._made.reserve(opening, ours, status):
                    await self._made.stream(
                        opening,
                        ours,
                        permit=permit_of(LEASE),
                        say=say,
                        task_status=status,
                    )
            except (RefusedError, UpstreamError) as error:
                self.refused[number] = error.message
                status.started()
        self._over[number].set()


@asynccontextmanager
async def streams(tmp_path):
    """Sound before a sound server that takes all connections and says nothing."""
    environ = dict(os.environ, PULSE_SERVER=f"unix:{tmp_path}/server")
    with socket.socket(socket.AF_UNIX) as server, starter_of_orders(environ) as session:
        server.bind(str(tmp_path / "server"))
        server.listen(limits.PULSE_CONNECTIONS + 1)
        server.settimeout(0)
        orders = CountedOrders(session)
        async with (
            sound(tmp_path, session=orders) as (made, _, _),
            trio.open_nursery() as nursery,
        ):
            yield server, Streams(made, nursery, orders)
            nursery.cancel_scope.cancel()


async def test_connections_beyond_the_limit_wait(tmp_path):
    most = limits.PULSE_CONNECTIONS
    with trio.fail_after(60):
        async with streams(tmp_path) as (server, opened):
            for number in range(most + 2):
                await opened.start(number)
            assert opened.orders.given == most
            with ExitStack() as stack:
                for _ in range(most):
                    stack.enter_context(server.accept()[0])
                with pytest.raises(BlockingIOError):
                    server.accept()
            # One gives up while it waits, the other one gets the place.
            opened.programs[most].close()
            await opened.wait_over(most)
            assert list(opened.refused) == [most]
            await opened.end(3)
            await eventually(lambda: opened.orders.given == most + 1)
            assert list(opened.refused) == [most]


async def test_connection_without_a_place_is_refused_in_time(autojump_clock):
    """libpulse would give up by itself, and no reason would be in the log."""
    quota = SoundPlaces(SoundServerPlaces(), "web")
    with ExitStack() as stack:
        for _ in range(limits.PULSE_CONNECTIONS):
            stack.enter_context(quota.one())
        with pytest.raises(RefusedError, match="already has 16 sound connections"):
            async with quota.reserve():
                raise AssertionError
    assert trio.current_time() - limits.PULSE_WAIT_SECONDS < 1


async def test_few_connections_may_wait():
    """Each keeps a descriptor open in the viewer, which serves all sandboxes."""
    quota = SoundPlaces(SoundServerPlaces(), "web")

    async def connect():
        async with quota.reserve():
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(limits.PULSE_CONNECTIONS + limits.PULSE_WAITING):
            nursery.start_soon(connect)
        await wait_all_tasks_blocked()
        with pytest.raises(RefusedError, match="already wait"):
            async with quota.reserve():
                raise AssertionError
        nursery.cancel_scope.cancel()


async def test_sandboxes_of_a_record_share_the_pace_of_connections(autojump_clock):
    """A disposable would begin with another burst."""
    server = SoundServerPlaces()
    began = trio.current_time()
    for _ in range(2 * limits.PULSE_CONNECTS_BURST):
        async with SoundPlaces(server, "web").reserve():
            pass
    seconds = limits.PULSE_CONNECTS_BURST / limits.PULSE_CONNECTS_PER_SECOND
    assert trio.current_time() - began >= seconds - 0.1
    assert not SoundPlaces(server, "other").must_wait()


async def test_connections_that_come_and_go_are_opened_at_a_pace(tmp_path, mock_clock):
    burst = limits.PULSE_CONNECTS_BURST
    async with streams(tmp_path) as (server, opened), trio.open_nursery() as nursery:
        for number in range(burst):
            await opened.start(number)
            await opened.end(number)
            server.accept()[0].close()
        nursery.start_soon(opened.start, burst)
        await wait_all_tasks_blocked()
        # A process connects: the server could see too late that it was not to.
        assert opened.orders.given == burst
        mock_clock.jump(1 / limits.PULSE_CONNECTS_PER_SECOND)
        await opened.wait_begun(burst)
        server.accept()[0].close()
        # A stream that is cut waits for its worker's last counts, by this clock.
        await opened.end(burst)
        assert not opened.refused


async def test_absent_server_is_not_tried_for_each_connection(tmp_path, mock_clock):
    """Each attempt is a process of the session."""
    async with streams(tmp_path) as (server, opened):
        server.close()
        for number in range(8):
            await opened.start(number)
        assert opened.orders.given == 1
        assert len(set(opened.refused.values())) == 1
        mock_clock.jump(limits.PULSE_ABSENT_SECONDS)
        await opened.start(8)
        assert opened.orders.given == 2


def test_levels_on_disk(tmp_path):
    assert load_level(tmp_path, "a") == Level()
    save_level(tmp_path, "a", Level(5))
    assert load_level(tmp_path, "a") == Level(5)
    (tmp_path / "a.json").write_text('{"volume": 99999999}')
    assert load_level(tmp_path, "a") == Level(65536)
    (tmp_path / "a.json").write_text("{")
    assert load_level(tmp_path, "a").muted


def _long(path):
    path.write_text('{"volume": 5}' + " " * 4096)


def _terabytes(path):
    path.touch()
    for size in (1 << 43, 1 << 42):  # a file of ext4 has less than 16 TiB
        with suppress(OSError):
            os.truncate(path, size)
            return


def _link(path):
    path.with_name("other").write_text('{"volume": 5}')
    path.symlink_to("other")


def _nested(path):
    path.write_text('{"x":' + "[" * 2000 + "]" * 2000 + "}")


def _no_text(path):
    path.write_bytes(b'{"\xff":1}')


@pytest.mark.parametrize(
    "leave",
    [_long, _terabytes, _link, os.mkfifo, Path.mkdir, _nested, _no_text],
    ids=["long", "terabytes", "link", "pipe", "directory", "nested", "no-text"],
)
def test_a_level_that_is_no_small_file_is_muted(tmp_path, leave):
    """A viewer that was taken over left 8 TiB: MemoryError in each later viewer."""
    leave(tmp_path / "a.json")
    assert load_level(tmp_path, "a") == Level(muted=True)
