"""Where sandboxes are plugged in, and the process that carries their frames."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import trio

import broker
from broker.core import limits
from broker.core.errors import RefusedError, SetupError
from broker.core.limits import network as network_limits
from broker.host.network.frameguard.veth import LENGTH, take_frames
from broker.host.network.switch import switches
from broker.host.network.switch.process import SwitchStream
from broker.host.network.switch.switch_ports import PortRole, SwitchPlace, name_server
from broker.host.network.switch.switches import Switches
from broker.host.places import places_of
from policy.tools.record_files import load_files
from tests.attack.test_switch_ports import ip
from tests.kit.eventually import eventually

LAB = SwitchPlace("lan:lab", PortRole.MEMBER)
CLIENT = SwitchPlace("through:vpn", PortRole.CLIENT)
PROVIDER = SwitchPlace("through:vpn", PortRole.PROVIDER)
RECORD = 'class = "persistent"\n[launch]\nkind = "bwrap"\nnetwork = "{}"\n{}'
PROVIDES = "provides_network = true\n"


@pytest.fixture
def records(tmp_path):
    def load(*providers: str, **networks: str):
        for name, network in networks.items():
            more = PROVIDES if name in providers else ""
            (tmp_path / f"{name}.toml").write_text(RECORD.format(network, more))
        found = load_files(list(tmp_path.iterdir()))
        assert not found.broken
        return found.records

    return load


def test_places(records):
    found = records(
        "vpn", work="through:vpn", vpn="lan:lab", db="lan:lab", alone="user"
    )
    assert places_of(found["work"], found) == (CLIENT,)
    assert places_of(found["vpn"], found) == (LAB, PROVIDER)
    assert places_of(found["db"], found) == (LAB,)
    assert places_of(found["alone"], found) == ()
    assert [name_server(one) for one in ("lan:lab", "through:vpn")] == [
        "10.0.3.1",
        "10.0.4.1",
    ]


@pytest.mark.parametrize(
    "network", ["through:nobody", "through:work", "through:second"]
)
def test_networks_lead_to_no_circle(records, network):
    found = records("work", "second", work=network, second="through:work")
    with pytest.raises(SetupError, match="is missing or cannot provide a network"):
        places_of(found["work"], found)


def test_a_record_says_itself_that_it_is_the_network_of_others(records):
    found = records(work="through:vpn", vpn="user")
    assert places_of(found["vpn"], found) == ()
    with pytest.raises(SetupError, match="is missing or cannot provide a network"):
        places_of(found["work"], found)
    alone = records("vpn", vpn="user")
    assert places_of(alone["vpn"], alone) == (PROVIDER,)


@asynccontextmanager
async def seats(*plugged: tuple[SwitchPlace, str]):
    """Real seats at a real switch, each with a frame's first reader."""
    switches = Switches()
    async with AsyncExitStack() as stack:
        made = []
        for place, name in plugged:
            made.append(switches.join(place, name))
            stack.push_async_callback(made[-1].leave)
        yield switches, made


def last(seat) -> int:
    return int(seat.address.rpartition(".")[2])


def put(seat, frame: bytes) -> None:
    seat.conn.sendall(LENGTH.pack(len(frame)) + frame)


async def got(seat) -> list[bytes]:
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(seat.conn)
    unread = bytearray(seat.conn.recv(limits.FRAMES_READ_BYTES))
    frames = take_frames(unread)
    assert not unread
    return frames


async def test_frames_are_carried_between_seats():
    async with seats((LAB, "db"), (LAB, "app")) as (_, (db, app)):
        frame = ip(last(db), last(app))
        put(db, frame)
        assert await got(app) == [frame]
        assert db.mac == "52:56:0a:00:03:" + f"{last(db):02x}"
        assert db.router == ""


async def test_a_mistake_ends_one_port():
    async with seats((LAB, "db"), (LAB, "app"), (LAB, "bad")) as (_, (db, app, bad)):
        bad.conn.sendall(LENGTH.pack(limits.FRAME_BYTES + 1))
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(bad.conn)
        assert bad.conn.recv(1) == b""
        put(db, ip(last(db), last(app)))
        assert await got(app) == [ip(last(db), last(app))]


_MISTAKEN = f"""
import sys
sys.path[0] = {str(Path(broker.__file__).parents[1])!r}
from broker.host.network.switch import process
take = process.LanSwitch.take
def mistaken(self, number, frame, now):
    if frame.endswith(b"evil"):
        raise IndexError("index out of range")
    take(self, number, frame, now)
process.LanSwitch.take = mistaken
process.switch_frames(*sys.argv[3:])
"""


async def test_our_mistake_about_a_port_ends_one(monkeypatch):
    """Attack: a frame at which the switch itself errs, locked as it is."""

    def mistaken(_module: str, *words: str) -> list[str]:
        return [sys.executable, "-c", _MISTAKEN, *words]

    monkeypatch.setattr(switches, "our_program", mistaken)
    async with seats((LAB, "db"), (LAB, "app"), (LAB, "bad")) as (_, (db, app, bad)):
        put(bad, ip(last(bad), last(db), data=b"evil"))
        with trio.fail_after(30):
            await trio.lowlevel.wait_readable(bad.conn)
        assert bad.conn.recv(1) == b""
        put(db, ip(last(db), last(app)))
        assert await got(app) == [ip(last(db), last(app))]


async def test_a_frame_may_come_in_pieces():
    async with seats((LAB, "db"), (LAB, "app")) as (_, (db, app)):
        frame = ip(last(db), last(app))
        whole = LENGTH.pack(len(frame)) + frame
        for at in range(len(whole)):
            db.conn.sendall(whole[at : at + 1])
        assert await got(app) == [frame]


async def test_a_seat_that_is_not_read_delays_no_other():
    """Frames that it does not take are dropped, and the sender continues."""
    async with seats((LAB, "db"), (LAB, "deaf"), (LAB, "app")) as (_, (db, deaf, app)):
        much = ip(last(db), last(deaf), data=bytes(60000))
        with trio.fail_after(60):
            for _ in range(100):
                await trio.to_thread.run_sync(put, db, much)
        put(db, ip(last(db), last(app)))
        assert await got(app) == [ip(last(db), last(app))]


def test_a_port_holds_few_frames():
    stream = SwitchStream(-1)
    for _ in range(1000):
        stream.queue(1, bytes(60000))
    held = sum(map(len, itertools.chain(*stream._waiting.values())))
    assert 60000 <= held < limits.FRAMES_READ_BYTES


def test_a_sender_leaves_room_and_turns_at_a_port_to_others():
    """One member's flood left 4 of 395 frames of another one."""
    stream = SwitchStream(-1)
    for _ in range(1000):
        stream.queue(1, b"flood" * 300)
    stream.queue(2, b"honest")
    stream._next()
    assert stream._next().endswith(b"honest")
    while stream.waits:
        stream._next()
    stream.queue(2, b"again")
    assert stream.waits


async def test_the_switch_ends_with_its_last_seat():
    async with seats((LAB, "db"), (LAB, "app")) as (_, (db, app)):
        process = db.switch.process
        await db.leave()
        assert not process.ended
        other = app.conn
        await app.leave()
        assert process.ended
        assert other.fileno() == -1


async def test_the_switch_ends_with_its_broker():
    async with seats((LAB, "db")) as (_, (db,)):
        pid = db.switch.process.pid
        db.switch.control.shutdown(socket.SHUT_RDWR)
        assert db.conn.recv(1) == b"", "its members have no network any more"
        await eventually(lambda: db.switch.process.ended)
        assert not os.path.exists(f"/proc/{pid}/ns") or db.switch.process.ended


async def test_after_a_switch_that_was_killed_there_is_another_one():
    async with seats((LAB, "db")) as (switches, (db,)):
        db.switch.process.kill()
        await eventually(lambda: db.switch.process.ended)
        app = switches.join(LAB, "app")
        again = switches.join(LAB, "db")
        try:
            assert again.address == db.address
            put(app, ip(last(app), last(again)))
            assert await got(again) == [ip(last(app), last(again))]
        finally:
            await app.leave()
            await again.leave()


async def test_a_switch_has_one_provider_and_it_may_come_again():
    async with seats((CLIENT, "work"), (PROVIDER, "vpn")) as (switches, (work, vpn)):
        assert (vpn.address, work.router) == ("10.0.4.1", "10.0.4.1")
        with pytest.raises(RefusedError, match="another sandbox already provides"):
            switches.join(PROVIDER, "vpn2")
        await vpn.leave()
        again = switches.join(PROVIDER, "vpn")
        await again.leave()


async def test_addresses_stay_and_are_unlike():
    names = [f"box{number}" for number in range(network_limits.SWITCH_PORTS)]
    async with seats(*((LAB, name) for name in names)) as (switches, made):
        assert len({one.address for one in made}) == len(names)
        with pytest.raises(RefusedError, match="already has"):
            switches.join(LAB, "more")
    async with seats((LAB, names[0])) as (_, (again,)):
        assert again.address == made[0].address


def alike(name: str) -> str:
    """Another sandbox's name that leads to the same address."""
    first = sha256(name.encode()).digest()[0] % 253
    names = (f"{name}{number}" for number in itertools.count())
    return next(n for n in names if sha256(n.encode()).digest()[0] % 253 == first)


async def test_an_address_of_one_that_left_is_not_another_ones():
    """Attack: a sandbox starts as another one ends, and gets that one's frames."""
    other = alike("db")
    async with seats((LAB, "app"), (LAB, "db")) as (switches, (_, db)):
        await db.leave()
        taken = switches.join(LAB, other)
        assert taken.address != db.address
        again = switches.join(LAB, "db")
        assert again.address == db.address
        await taken.leave()
        await again.leave()
        at = switches.join(LAB, other)
        assert at.address == taken.address, "it keeps what it had"
        await at.leave()


async def test_an_address_is_given_again_where_hundreds_have_come_and_gone():
    async with seats((LAB, "app")) as (switches, (app,)):
        given = []
        for number in range(260):
            seat = switches.join(LAB, f"box{number}")
            given.append(seat.address)
            await seat.leave()
        assert app.address not in given
        assert len(set(given)) == 252
        assert given[252:] == given[: 260 - 252], "the one that is free longest"


async def test_a_switch_can_open_nothing():
    async with seats((LAB, "db")) as (_, (db,)):
        pid = db.switch.process.pid

        def confined():
            with open(f"/proc/{pid}/status") as file:
                return "Seccomp:\t2" in file.read()

        await eventually(confined)


async def test_a_switch_that_gets_no_first_port_ends(monkeypatch):
    """This process has no descriptor left, and perhaps nobody asks for that lan again."""
    started, begin = [], switches._start

    def full(*_):
        raise OSError(24, "Too many open files")

    def start(network):
        started.append(begin(network))
        monkeypatch.setattr(socket, "socketpair", full)
        return started[0]

    monkeypatch.setattr(switches, "_start", start)
    with pytest.raises(OSError, match="Too many"):
        Switches().join(LAB, "a")
    (made,) = started
    left = not made.process.ended
    await made.end()
    assert not left
