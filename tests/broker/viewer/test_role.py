"""What the viewer decides: on record before anything comes of it, or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from broker.authority.policy_authority import PolicyAuthority
from broker.core.errors import InternalError, RefusedError, UpstreamError
from broker.core.files.sandbox_logs import KEPT
from broker.core.lease import Lease, Opening
from broker.core.limits import sound as sound_limits
from broker.core.names import LeaseId, SandboxName, ServiceName
from broker.core.paths import find_paths
from broker.core.services import AGENT, AUDIO, DISPLAY
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.host.role import HostRole
from broker.ipc import agent, worker
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.authority import QuestionWaits
from broker.viewer.folders.streamed import StreamedFolders
from broker.viewer.role import ViewerRole
from broker.viewer.sandboxes.dependencies import GuestTools
from policy.records.loader import load_records
from policy.tools.record_files import parse_record
from tests.kit.audit.paper import PaperWorkers, hello
from tests.kit.eventually import NeverError, eventually
from tests.kit.link.roles import LEASE, NoDevices, PaperMachine, journal, old_logs, pair
from tests.kit.rulebook import Person, no, yes
from tests.kit.session import starter_of_orders
from tests.kit.threads import other_task_runs
from tests.kit.wayland.compositor import short_directory
from tests.kit.workers import compositor_at
from tests.kit.world import record


class Host:
    """What a viewer asks of its host."""

    def __init__(self):
        self.stopped = []
        self.asked = trio.Event()
        self.unreachable = False
        self.devices, self.folders = NoDevices(), StreamedFolders(None)

    async def stop(self, lease, *, grace, reason):
        self.stopped.append((lease, grace, reason))
        self.asked.set()
        if self.unreachable:
            raise UpstreamError("the host cannot be reached")


class InProcess(PolicyAuthority):
    """An authority in the process of the test, whose decider permits."""

    def __getattr__(self, name):
        return getattr(self.decider, name)


class NoSession:
    """It carries out nothing."""

    async def carry_out(self, _row, order, fds=(), *, warrant=b""):
        await trio.lowlevel.checkpoint()
        raise UpstreamError("nothing is carried out here")


class Stand:
    def __init__(self, path, log, session=None):
        self.path = path
        self.log = log
        self.host = Host()
        self.workers = PaperWorkers()
        self.held = None
        """Records that were read once, as the broker keeps them."""
        (path / "sandboxes.d").mkdir()
        self.write("a", record("persistent"))
        environ = {"XDG_RUNTIME_DIR": str(path / "run"), "HOME": str(path)}
        self.authority = InProcess(paths=find_paths(environ), log=log, source=self)
        self.role = ViewerRole(
            paths=find_paths(environ),
            authority=self.authority,
            tools=GuestTools(
                workers=self.workers,
                pump=None,
                log=log,
                compositor=compositor_at(path / "wayland-0"),
                display=lambda: path / "wayland-0",
                session=session or NoSession(),
            ),
            log=log,
            host=self.host,
        )

    def read(self):
        return load_records([self.path / "sandboxes.d"], shipped=None)

    @property
    def now(self):
        return self.held or self.read()

    pending = None

    async def reload(self):
        """They are read for each question here."""

    def write(self, name, text):
        (self.path / "sandboxes.d" / f"{name}.toml").write_text(text)

    def events(self, *kinds):
        with open_log(self.path / "audit.sqlite") as log:
            return [row.fields() for row in log.find(Filters(kinds=kinds))]

    async def offer(self, nursery, service=AGENT, lease=LEASE, stream=1, direct=False):
        """Offer a stream as the host does; returns our end of it.

        Where it is refused the other end hears why, and is hung up on.
        """
        ours, theirs = pair()
        ours.settimeout(30)
        answers = []
        answering = theirs.dup()

        async def answer(error):
            # As over a link, where the answer goes the way of the stream.
            answers.append(error)
            with answering:
                answering.send(b"yes" if error is None else b"no")

        async def carry(*, task_status):
            await self.role.stream_opened(
                Opening(lease, service, stream, "a test", direct),
                theirs,
                task_status=task_status,
                answer=answer,
            )

        try:
            await nursery.start(carry)
        except (RefusedError, UpstreamError) as error:
            with ours, answering:
                heard = [*answers, theirs.fileno(), ours.recv(2), ours.recv(1)]
            if heard != [error, -1, b"no", b""]:
                raise AssertionError(heard) from error
            raise
        assert answers == [None]
        assert ours.recv(3) == b"yes"
        return ours


@asynccontextmanager
async def viewer(session=None):
    with short_directory() as path:
        async with journal(path) as log, trio.open_nursery() as nursery:
            mine = Stand(path, log, session)
            await nursery.start(mine.authority.run)
            await nursery.start(mine.role.run)
            yield mine
            for guest in mine.role.guests():
                await mine.role.lease_ended(guest.lease.id, "the test is over")
            nursery.cancel_scope.cancel()


@contextmanager
def refuses(match):
    """A refusal that came through the nursery of a stream."""
    with pytest.raises((RefusedError, UpstreamError), match=match) as caught:
        yield caught


@asynccontextmanager
async def beginning(s, streams):
    """A stream is offered, and its worker begins; yields what becomes its socket."""
    s.workers.may_open = trio.Event()
    offered = []

    async def offer():
        offered.append(await s.offer(streams))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(offer)
        await s.workers.asked.wait()
        yield offered


async def test_the_decision_is_on_record_before_anything_comes_of_it():
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        async with beginning(s, streams) as offered:
            # The first effect is about to happen.
            (event,) = s.events("decision")
            assert event["verdict"] == "allow"
            assert (event["service"], event["stream"]) == (AGENT, 1)
            assert event["rule"].endswith("99-vitrail.policy:13")
            assert event["policy"] == s.authority.rules.digest
            assert event["detail"]["records"] == s.authority.records.digest
            # In one commit with it: a stream waits for the disk once.
            kinds = [e["kind"] for e in s.events("decision", "stream.opened")]
            assert kinds == ["decision", "stream.opened"]
            (opened,) = s.events("stream.opened")
            assert (opened["service"], opened["mode"]) == (AGENT, "worker")
            for name in ("sandbox", "lease", "generation", "stream", "peer"):
                assert opened[name] == event[name]
            s.workers.may_open.set()
        assert len(s.events("stream.opened")) == 1
        await s.role.lease_ended(LEASE.id, "over")
        offered[0].close()


async def test_a_stream_without_a_place_is_closed_in_the_log():
    """It is on record as opened, with its decision."""
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        s.role.guest(LEASE.id).streams._places = 10_000
        with refuses("already has 256 open streams"):
            await s.offer(streams)
        assert not s.workers.asked.is_set()
        (closed,) = s.events("stream.closed")
        assert "open streams" in closed["reason"]
        assert closed["stream"] == s.events("stream.opened")[0]["stream"]


async def test_what_cannot_be_recorded_is_denied(monkeypatch):
    """No worker is started, no byte is read, and the next one is decided again."""
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)

        async def full(*_events):
            raise UpstreamError("the audit log cannot be written")

        with monkeypatch.context() as disk:
            disk.setattr(s.log._store, "record", full)
            with refuses("cannot be written"):
                await s.offer(streams)
        assert not s.workers.asked.is_set()
        assert s.role.guest(LEASE.id).streams._places == 0
        conn = await s.offer(streams)
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_denial_names_its_rule_and_has_no_effect():
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record("persistent", display="none"))
        await s.role.lease_begun(LEASE)
        with refuses("denied: ") as caught:
            await s.offer(streams, DISPLAY)
        (event,) = s.events("decision")
        assert event["verdict"] == "deny"
        assert caught.value.where == event["rule"]
        assert event["rule"].endswith("a.toml:2:1")
        assert not s.workers.asked.is_set()


@pytest.fixture
def silent():
    """A session without a sound server."""
    with starter_of_orders(dict(os.environ, PULSE_SERVER="unix:/no-sound")) as session:
        yield session


@pytest.mark.parametrize("audio", ["allow", "raw"])
async def test_sound_without_a_server_is_answered_and_then_hung_up_on(audio, silent):
    async with viewer(silent) as s, trio.open_nursery() as streams:
        s.write("a", record("persistent", top=f'audio = "{audio}"\n'))
        await s.role.lease_begun(LEASE)
        with refuses("cannot connect to .*/no-sound"):
            await s.offer(streams, AUDIO)
        assert s.role.guest(LEASE.id).streams._places == 0


async def test_an_unknown_service_is_denied_by_default():
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        with refuses("denied: "):
            await s.offer(streams, ServiceName("vitrail.Teleport"))
        (event,) = s.events("decision")
        assert (event["verdict"], event["service"]) == ("deny", "vitrail.Teleport")


async def test_a_record_that_goes_away_denies_the_next_stream():
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        s.write("a", "class = 7\n")
        with refuses("denied: "):
            await s.offer(streams)
        assert not s.workers.asked.is_set()


async def test_a_stream_of_a_lease_that_was_not_announced():
    other = Lease(LeaseId("f" * 16), SandboxName("a"), SandboxName("a"), 1)
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        with refuses("was not announced to this viewer"):
            await s.offer(streams, lease=other)
        assert s.events("decision") == [], "there was nothing to decide"


async def test_a_lease_without_a_valid_record_is_refused():
    other = Lease(LeaseId("f" * 16), SandboxName("b"), SandboxName("b"), 1)
    async with viewer() as s:
        with pytest.raises(RefusedError, match="no valid record 'b'"):
            await s.role.lease_begun(other)
        assert s.role.guests() == []


async def test_an_arena_is_kept_until_its_sandbox_ends():
    fd = os.memfd_create("arena")
    async with viewer() as s:
        with pytest.raises(RefusedError, match="was not announced to this viewer"):
            await s.role.arena_lent(LeaseId("f" * 16), fd)
        await s.role.lease_begun(LEASE)
        (guest,) = s.role.guests()
        await s.role.arena_lent(LEASE.id, fd)
        await s.role.arena_lent(LEASE.id, fd)  # again: one is kept
        (mine,) = guest.streams._arena
        assert os.path.sameopenfile(mine, fd)
        await s.role.lease_ended(LEASE.id, "over")
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(mine)
    os.close(fd)


async def test_a_host_that_lends_an_arena_again_and_again_has_one_kept():
    """And each sandbox has a different one."""
    mine, another = os.memfd_create("arena"), os.memfd_create("another")
    other = Lease(LeaseId("e" * 16), SandboxName("a"), SandboxName("a"), 2)
    async with viewer() as s:
        await s.role.lease_begun(LEASE)
        await s.role.lease_begun(other)
        await s.role.arena_lent(other.id, another)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10_000):
            await s.role.arena_lent(LEASE.id, mine)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        for guest in s.role.guests():
            (fd,) = guest.streams._arena
            wanted = mine if guest.lease.id == LEASE.id else another
            assert os.path.sameopenfile(fd, wanted)
        await s.role.lease_ended(LEASE.id, "over")
        (guest,) = s.role.guests()
        assert os.path.sameopenfile(guest.streams._arena[0], another)
    os.close(mine)
    os.close(another)


class SlowFolders:
    """Folders of a record, about which a person is asked as its machine starts."""

    def __init__(self, end):
        self.end = end
        self.asked = trio.Event()

    async def lease_begun(self, lease):
        self.asked.set()
        await self.end()

    async def lease_ended(self, lease):
        """It has none."""


async def _stopped():
    raise RefusedError("it has stopped")


@pytest.mark.parametrize("end", [trio.sleep_forever, _stopped])
async def test_a_lease_that_is_given_up_while_it_begins_leaves_no_sandbox(end):
    """A program that asked for the start hangs up: another sandbox's, perhaps.

    The host never ends a lease that has not begun here; its sandbox would be the one
    that is found by its name from then on, without a machine.
    """
    async with viewer() as stand:
        stand.role.folders = folders = SlowFolders(end)

        async def begin():
            with contextlib.suppress(RefusedError):
                await stand.role.lease_begun(LEASE)

        async with trio.open_nursery() as starter:
            starter.start_soon(begin)
            await folders.asked.wait()
            starter.cancel_scope.cancel()
        assert stand.role.guests() == []
        assert stand.authority.decider._judge.running() == []


async def test_a_program_hangs_up_that_has_asked_for_a_start():
    async with viewer() as stand, trio.open_nursery() as hosts:
        stand.role.folders = folders = SlowFolders(trio.sleep_forever)

        async def machine(*_):
            return PaperMachine()

        host = HostRole(
            viewer=stand.role,
            log=stand.log,
            open_machine=machine,
            devices=NoDevices(),
            name_for=lambda record, _names: record,
        )
        await hosts.start(host.run)
        async with trio.open_nursery() as program:
            program.start_soon(host.start, SandboxName("a"))
            await folders.asked.wait()
            program.cancel_scope.cancel()
        assert host.active_leases() == []
        assert stand.role.guests() == []
        hosts.cancel_scope.cancel()


async def test_before_it_runs():
    with short_directory() as path:
        async with journal(path) as log:
            mine = Stand(path, log)
            with pytest.raises(InternalError, match="before the viewer was running"):
                await mine.role.lease_begun(LEASE)


@asynccontextmanager
async def asked_about(says, session=None):
    """A viewer whose rule asks about the agent's stream."""
    async with viewer(session) as s:
        folder = s.role._paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        (folder / "30-ask.policy").write_text("vitrail.Agent * a @adminvm ask\n")
        await s.authority.reload()
        person = s.authority.decider.asker = Person()
        person.says = says
        await s.role.lease_begun(LEASE)
        yield s, person


async def test_a_stream_that_is_asked_about_is_taken_first():
    """So that no deadline of the host is the person's; nothing is read meanwhile."""
    may = trio.Event()

    async def think(question):
        await may.wait()
        return yes()(question)

    async with asked_about(think) as (s, person), trio.open_nursery() as streams:
        conn = await s.offer(streams)
        await person.wait_asked(1)
        assert not s.workers.asked.is_set()
        assert [e["kind"] for e in s.events("decision", "stream.opened")] == []
        may.set()
        with trio.fail_after(30):
            await s.workers.asked.wait()
        (event,) = s.events("decision")
        assert (event["verdict"], event["answered_by"]) == ("allow", "person")
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_denial_hangs_up_an_accepted_stream():
    async with asked_about(no) as (s, _), trio.open_nursery() as streams:
        conn = await s.offer(streams)
        with conn:
            assert await trio.to_thread.run_sync(conn.recv, 1) == b""
        (event,) = s.events("decision")
        assert (event["verdict"], event["answered_by"]) == ("deny", "person")
        assert not s.workers.asked.is_set()
        assert s.role.guest(LEASE.id).streams._places == 0


async def test_who_has_hung_up_is_not_asked_about():
    """The dialog goes, and no answer to it opens anything."""

    async def think(question):
        await trio.sleep_forever()

    async with asked_about(think) as (s, person), trio.open_nursery() as streams:
        conn = await s.offer(streams)
        conn.sendall(b"it said something, which nobody reads")
        conn.shutdown(socket.SHUT_WR)
        await person.wait_asked(1)
        with pytest.raises(NeverError):
            await eventually(lambda: not person.open, deadline=0.7)
        conn.close()
        await eventually(lambda: not person.open)
        events = await eventually(lambda: s.events("question.answered"))
        assert events[0]["answered_by"] == "gone"
        assert s.role.guest(LEASE.id).streams._places == 0
        assert not s.workers.asked.is_set()


@asynccontextmanager
async def sound_asked_about(silent):
    """A viewer whose rule asks about sound."""
    async with asked_about(None, silent) as (s, person):
        s.write("a", record("persistent", top='audio = "allow"\n'))
        folder = s.role._paths.config[0] / "policy.d"
        (folder / "30-ask.policy").write_text("vitrail.Audio * a @adminvm ask\n")
        await s.authority.reload()
        yield s, person


def late(gone):
    """A person who says yes when the client has gone."""

    async def think(question):
        await gone.wait()
        return yes()(question)

    return think


async def test_a_yes_to_sound_after_the_client_went_is_for_its_next_connection(silent):
    """The question stays, nothing is carried for the first, nothing asked for the next."""
    gone = trio.Event()
    async with sound_asked_about(silent) as (s, person), trio.open_nursery() as streams:
        person.says = late(gone)
        conn = await s.offer(streams, AUDIO)
        await person.wait_asked(1)
        conn.close()
        await eventually(lambda: person.missing)
        gone.set()
        events = await eventually(lambda: s.events("decision"))
        assert (events[0]["verdict"], events[0]["answered_by"]) == ("deny", "person")
        with refuses("cannot connect to .*/no-sound"):
            await s.offer(streams, AUDIO)
        assert len(person.asked) == 1
        assert s.role.guest(LEASE.id).streams._places == 0


async def test_question_holds_no_place_at_the_sound_server(silent):
    """Attack: sandboxes without a permit leave four connections to each other one."""

    async def think(question):
        await trio.sleep_forever()

    async with sound_asked_about(silent) as (s, person), trio.open_nursery() as streams:
        person.says = think
        server = s.role.guest(LEASE.id).sound.places.server
        with contextlib.ExitStack() as conns:
            for _ in range(3):
                conns.enter_context(await s.offer(streams, AUDIO))
            await person.wait_asked(1)
            await eventually(lambda: server.taken == 0)
            streams.cancel_scope.cancel()


async def test_sound_refused_after_a_yes_beyond_the_limit(silent, monkeypatch):
    monkeypatch.setattr(sound_limits, "PULSE_WAIT_SECONDS", 0.1)
    async with sound_asked_about(silent) as (s, person), trio.open_nursery() as streams:
        guest, reasons = s.role.guest(LEASE.id), []
        guest.programs.refused = lambda _service, reason: reasons.append(reason)
        quota = guest.sound.places
        with contextlib.ExitStack() as others:

            async def take_all(question):
                for _ in range(sound_limits.PULSE_CONNECTIONS):
                    others.enter_context(quota.one())
                return yes()(question)

            person.says = take_all
            with await s.offer(streams, AUDIO) as conn, trio.fail_after(30):
                assert await trio.to_thread.run_sync(conn.recv, 1) == b"", "hung up"
            assert reasons == ["the sandbox already has 16 sound connections"]


async def test_a_connection_of_its_own_is_a_window_s_alone(silent):
    """A host that says so of sound has it served as sound."""
    async with sound_asked_about(silent) as (s, person), trio.open_nursery() as streams:
        person.says = yes()
        with await s.offer(streams, AUDIO, direct=True) as conn:
            assert await trio.to_thread.run_sync(conn.recv, 1) == b"", "hung up"
        assert not s.workers.asked.is_set()
        assert s.events("stream.opened") == []


@pytest.mark.long
@pytest.mark.skipif(shutil.which("pactl") is None, reason="pactl is not installed")
async def test_libpulse_gives_up_after_30_s_and_its_next_attempt_has_the_yes(silent):
    """With pactl: the time is libpulse's own."""
    async with sound_asked_about(silent) as (s, person), trio.open_nursery() as streams:
        gone = trio.Event()
        person.says = late(gone)
        path = s.path / "pulse"
        listener = trio.socket.socket(socket.AF_UNIX)
        await listener.bind(str(path))
        listener.listen()

        async def pactl():
            env = {**os.environ, "PULSE_SERVER": f"unix:{path}", "HOME": str(s.path)}
            child = spawn(["pactl", "info"], env=env, stdout=DEVNULL, stderr=DEVNULL)
            with trio.fail_after(90):
                return await child.wait()

        async def accepted(number):
            conn, _ = await listener.accept()
            plain = socket.socket(fileno=conn.detach())

            async def carry():
                opening = Opening(LEASE, AUDIO, number, "pactl")
                ignored = trio.TASK_STATUS_IGNORED
                with contextlib.suppress(UpstreamError):  # no sound server
                    await s.role.stream_opened(opening, plain, task_status=ignored)

            streams.start_soon(carry)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepted, 1)
            assert await pactl() != 0
        took = trio.current_time() - began
        print(f"pactl gave up after {took:.1f} s")
        await eventually(lambda: person.missing)
        gone.set()
        await eventually(lambda: s.events("decision"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accepted, 2)
            assert await pactl() != 0, "there is no sound server"
        verdicts = [e["verdict"] for e in s.events("decision")]
        assert verdicts == ["deny", "allow"]
        assert len(person.asked) == 1
        listener.close()


async def test_a_record_cuts_though_rules_could_not_be_recorded(monkeypatch):
    """There would be no second look: the next time its state is the former one."""
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        conn = await s.offer(streams)
        s.write("a", 'class = "persistent"\n[launch]\nkind = "external"\n')

        async def full():
            raise UpstreamError("the audit log cannot be written")

        with monkeypatch.context() as disk:
            disk.setattr(s.authority.rules, "reload", full)
            with pytest.raises(UpstreamError):
                await s.authority.reload()
        with trio.fail_after(30):
            while s.authority.decider.live():
                await trio.testing.wait_all_tasks_blocked(0.01)
        conn.close()


async def test_records_that_another_part_has_read_first_are_followed():
    """A launcher's request reads them, too: the change is no less one for that."""
    async with viewer() as s, trio.open_nursery() as streams:
        s.held = s.read()
        await s.authority.reload()
        await s.role.lease_begun(LEASE)
        conn = await s.offer(streams)
        (one,) = s.workers.opened
        await trio.testing.wait_all_tasks_blocked(0.01)
        count = len(one.rules)
        s.write("a", record("persistent") + "[window]\nwindows = 1\n")
        s.held = s.read()  # as 'brokerctl lease acquire' makes the host do
        await s.authority.reload()
        with trio.fail_after(30):
            while len(one.rules) == count:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert one.rules[-1].ceilings["windows"] == 1
        count = len(one.rules)
        await s.authority.reload()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(one.rules) == count, "nothing has changed"
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_record_that_changes_while_the_worker_begins_is_followed():
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        async with beginning(s, streams) as offered:
            s.write("a", record("persistent") + "[window]\nwindows = 1\n")
            await s.authority.reload()
            await trio.testing.wait_all_tasks_blocked(0.01)
            s.workers.may_open.set()
        (one,) = s.workers.opened
        # Once by the reload, and perhaps once more by what watches the directory.
        assert {rules.ceilings["windows"] for rules in one.rules} == {1}
        await s.role.lease_ended(LEASE.id, "over")
        offered[0].close()


async def test_sound_without_a_filter_ends_when_the_record_filters_it(monkeypatch):
    """Else its programs go on to record all, and no warning is shown any more."""
    hears = trio.Event()

    async def unfiltered(opening, conn, _server, *, status, **_):
        del opening
        with conn:
            await status.say()
            status.started()
            hears.set()
            await trio.sleep_forever()

    monkeypatch.setattr("broker.viewer.role.raw_stream", unfiltered)
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record("persistent", top='audio = "raw"\n'))
        await s.role.lease_begun(LEASE)
        with await s.offer(streams, AUDIO) as conn, trio.fail_after(30):
            await hears.wait()
            # What stays as it was ends nothing.
            s.write("a", record("persistent", top='audio = "raw"\n# a comment\n'))
            await s.authority.reload()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(s.authority.decider.live()) == 1
            s.write("a", record("persistent", top='audio = "allow"\n'))
            await s.authority.reload()
            await eventually(lambda: not s.authority.decider.live(), deadline=5)
            assert conn.recv(1) == b""
        # The stream ends before its end is recorded.
        await eventually(lambda: "outcome" in s.events("decision")[-1], deadline=5)
        cut = s.events("decision")[-1]
        assert (cut["verdict"], cut["outcome"]) == ("deny", "cut")
        assert 'audio = "allow"' in cut["reason"]


async def test_a_rule_that_comes_cuts_a_stream():
    """The connection ends, the sandbox and its lease stay."""
    async with viewer() as s, trio.open_nursery() as streams:
        await s.role.lease_begun(LEASE)
        conn = await s.offer(streams)
        folder = s.role._paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        new = folder / "x"
        new.write_text("vitrail.Agent * a @adminvm deny\n")
        new.rename(folder / "30-no.policy")
        with trio.fail_after(30):
            while s.authority.decider.live():
                await trio.testing.wait_all_tasks_blocked(0.01)
            while not (closed := s.events("stream.closed")):
                await trio.testing.wait_all_tasks_blocked(0.01)
            # Written side by side: either may be the first.
            while len(decisions := s.events("decision")) < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert closed[0]["reason"] == "cut"
        cut = decisions[-1]
        assert (cut["verdict"], cut["outcome"]) == ("deny", "cut")
        assert cut["rule"].endswith("30-no.policy:1")
        assert s.role.guest(LEASE.id) is not None
        with refuses("denied by"):
            await s.offer(streams, stream=2)
        conn.close()


@pytest.mark.parametrize("limit", [1, 3])
async def test_as_many_streams_as_the_record_allows(limit):
    text = record("persistent", launch=f"[limits]\nstreams = {limit}")
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", text)
        await s.role.lease_begun(LEASE)
        conns = [await s.offer(streams, stream=n + 1) for n in range(limit)]
        with refuses(f"already has {limit} open streams"):
            await s.offer(streams, stream=limit + 1)
        # One of them ends, and there is a place again.
        (other,) = s.workers.opened
        await other.say.send(worker.AgentClosed(1, "it left"))
        with trio.fail_after(30):  # its end is written in a thread
            while s.role.guest(LEASE.id).streams._places == limit:
                await trio.testing.wait_all_tasks_blocked(0.01)
        conns.append(await s.offer(streams, stream=limit + 2))
        await s.role.lease_ended(LEASE.id, "over")
        for conn in conns:
            assert isinstance(conn, socket.socket)
            conn.close()


@pytest.mark.parametrize("kind", ["disposable", "persistent"])
async def test_a_disposable_goes_with_its_last_program(kind):
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record(kind))
        await s.role.lease_begun(LEASE)
        conn = await s.offer(streams)
        (other,) = s.workers.opened
        await other.say.send(hello())  # it runs nothing
        await trio.testing.wait_all_tasks_blocked(0.01)
        if kind == "persistent":
            assert not s.host.asked.is_set()
        else:
            with trio.fail_after(30):
                await s.host.asked.wait()
            reason = "its last program has ended"
            assert s.host.stopped == [(LEASE.id, 5.0, reason)]
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_host_that_cannot_be_asked_is_an_event():
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", record())
        s.host.unreachable = True
        await s.role.lease_begun(LEASE)
        conn = await s.offer(streams)
        await s.workers.opened[0].say.send(hello())
        with trio.fail_after(30):
            while not (found := s.events("sandbox.failed")):
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert found[0]["reason"] == "the host cannot be reached"
        await s.role.lease_ended(LEASE.id, "over")
        conn.close()


async def test_a_scripts_disposable_machine_ends_when_its_host_can_be_asked_again():
    """Its program ended while the host could not be asked, or before a viewer's restart.

    Nothing else tells the new epoch, or the new viewer, that it had one.
    """
    text = 'class = "disposable"\ndisplay = "allow"\n[launch]\nkind = "external"\n[peer]\nhybrid_directory = "/run/a"\n'
    async with viewer() as s, trio.open_nursery() as streams:
        s.write("a", text)
        s.host.unreachable = True
        for ends in (False, True, True):
            s.host.asked = trio.Event()
            await s.role.lease_begun(LEASE)
            conn = await s.offer(streams)
            other = s.workers.opened[-1]
            await other.say.send(hello())
            if not ends:
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert not s.host.asked.is_set(), "no program has run"
                mine = s.role.guest(LEASE.id)
                program = await mine.start_program(["a"], {}, display=False)
                gone = agent.AgentExited(program.number, 0)
                await other.say.send(worker.FromAgent(1, gone))
            with trio.fail_after(30):
                await s.host.asked.wait()
            await s.role.lease_ended(LEASE.id, "the link was lost", machine_lives=True)
            conn.close()
        # Another machine of this name has had none.
        fresh = Lease(LeaseId("f" * 16), LEASE.sandbox, LEASE.record, 2)
        await s.role.lease_begun(fresh)
        conn = await s.offer(streams, lease=fresh)
        await s.workers.opened[-1].say.send(hello())
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not s.role.guest(fresh.id).idle.is_set()
        await s.role.lease_ended(fresh.id, "over")
        conn.close()


async def test_without_an_agent_the_power_button_is_soon_insisted_on():
    async with viewer() as s:
        await s.role.lease_begun(LEASE)
        await s.role.power_off(LEASE.id, reason="asked", grace=60)
        assert s.host.stopped == [(LEASE.id, 1.0, "asked")]


async def test_the_logs_of_many_disposables_do_not_pile_up():
    """On two machines no other process removes the viewer's."""
    async with viewer() as s:
        directory = old_logs(s.role._paths.logs("x").parent, KEPT + 1)
        oldest = Lease(LeaseId("f" * 16), SandboxName("web-1000"), LEASE.record, 1)
        await s.role.lease_begun(oldest)
        assert len(list(directory.iterdir())) == KEPT + 1, "it runs again"
        await s.role.lease_ended(oldest.id, "over", machine_lives=True)
        await s.role.lease_begun(LEASE)
        assert not (directory / "web-1000").exists()
        assert len(list(directory.iterdir())) == KEPT


@pytest.mark.parametrize(
    ("of", "top", "stay"),
    [
        ("disposable", "", False),
        ("disposable", 'logs = "keep"\n', True),
        ("persistent", "", True),
        ("template", "", False),
    ],
)
async def test_logs_of_ended_sandbox(of, top, stay):
    text = record(of, top=top)
    parsed, problems = parse_record(LEASE.record, Path("a.toml"), text.encode())
    assert parsed is not None, problems
    # As the authority sends it.
    sent = dataclasses.replace(parsed, values={})
    async with viewer() as s:
        s.role.record = lambda _: sent
        logs = s.role._paths.logs(LEASE.sandbox)
        await s.role.lease_begun(LEASE)
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "program-1.log").write_text("what it printed")
        await s.role.lease_ended(LEASE.id, "over")
        assert logs.exists() is stay


async def test_logs_of_another_record_stay():
    """Attack: a host that was taken over ends a disposable with a kept sandbox's name."""
    async with viewer() as s:
        persistent = s.role.record(LEASE.record)
        host = dataclasses.replace(
            persistent.host, sandbox_class="disposable", keep_logs=False
        )
        disposable = dataclasses.replace(persistent, host=host)
        persistent = dataclasses.replace(
            persistent,
            host=dataclasses.replace(host, sandbox_class="persistent", keep_logs=True),
        )
        s.role.record = {"a": persistent, "web": disposable}.get
        lease = dataclasses.replace(LEASE, record=SandboxName("web"))
        logs = s.role._paths.logs("a")
        logs.mkdir(parents=True, exist_ok=True)
        await s.role.lease_begun(lease)
        await s.role.lease_ended(lease.id, "over")
        assert logs.exists()


async def test_much_that_is_left_among_logs_holds_up_no_other_task(monkeypatch):
    """A viewer that was taken over left 600,000 files: no status for ten seconds."""
    with other_task_runs(monkeypatch, "broker.viewer.role.prune_logs") as run:
        async with viewer() as s, trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await s.role.lease_begun(LEASE)


@pytest.mark.parametrize("service", [AGENT, DISPLAY, AUDIO, "vitrail.Other"])
async def test_a_stream_of_any_service_outlives_half_a_minute_of_thinking(
    service, autojump_clock
):
    """Nothing in the viewer ends it; the answer opens it as the first second's would."""

    async def think(question):
        await trio.sleep(30)
        return no(question)

    async with viewer() as s:
        folder = s.role._paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        (folder / "30-ask.policy").write_text(f"{service} * a @adminvm ask\n")
        s.write("a", record("persistent", top='audio = "allow"\n'))
        await s.authority.reload()
        s.authority.decider.asker = Person()
        s.authority.decider.asker.says = think
        await s.role.lease_begun(LEASE)
        async with trio.open_nursery() as streams:
            conn = await s.offer(streams, ServiceName(service))
            began = trio.current_time()
            await s.authority.decider.asker.wait_asked(1)
            with conn:
                conn.setblocking(False)
                await trio.lowlevel.wait_readable(conn)
                assert conn.recv(1) == b""
            assert trio.current_time() - began > 29.9  # of a clock in floats
        (event,) = s.events("question.answered")
        assert event["answered_by"] == "person"


async def test_the_worker_is_told_of_windows_that_wait_for_an_answer():
    """It repeats the number to the guest, which ends streams that are not counted."""
    may = trio.Event()

    async def think(question):
        await may.wait()
        return no(question)

    async with viewer() as s, trio.open_nursery() as streams:
        folder = s.role._paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        (folder / "30-ask.policy").write_text("vitrail.Display * a @adminvm ask\n")
        await s.authority.reload()
        s.authority.decider.asker = Person()
        s.authority.decider.asker.says = think
        await s.role.lease_begun(LEASE)
        agent = await s.offer(streams, AGENT)
        (told,) = s.workers.opened

        async def displays():
            return [m.count for m in told.orders if isinstance(m, worker.DisplaysOpen)]

        conn = await s.offer(streams, DISPLAY, stream=2)

        async def counted(number):
            with trio.fail_after(10):
                while (await displays())[-1:] != [number]:
                    await trio.testing.wait_all_tasks_blocked()

        await counted(1)
        may.set()
        await counted(0)
        conn.close()
        await s.role.lease_ended(LEASE.id, "over")
        agent.close()


async def test_frames_say_what_was_reported_last_of_a_question():
    """Tasks that become runnable together run in no order: they carry no state."""
    async with viewer() as s:
        await s.role.lease_begun(LEASE)
        for number in range(1, 41):
            s.role.question.waits(QuestionWaits(number, LEASE.id, "a", "to do it"))
            s.role.question.waits(QuestionWaits())
            await trio.testing.wait_all_tasks_blocked()
            assert not s.role.guest(LEASE.id).frames.asks
