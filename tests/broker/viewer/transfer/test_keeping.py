"""When a delivery counts as kept: the end of the program that keeps it."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import transfer as limits
from broker.core.transfer.quota import Quota
from broker.viewer.exchange.guest_connection import Delivery
from broker.viewer.sandboxes.programs import LeasePrograms
from broker.viewer.transfer.keeping import NO_ROOM, keeping
from shims.files.protocol import EXIT_NO_ROOM


class Guest:
    """A target sandbox that obeys no signal."""

    def __init__(self, logs):
        self.lease = SimpleNamespace(sandbox="personal")
        self.programs = LeasePrograms(logs)
        self.program = self.programs.new("vitrail-files", display=False, limit=4)
        self.signals = []

    async def signal(self, program, number):
        assert program is self.program
        self.signals.append(number)

    def ends(self, code):
        self.programs._end(self.program, code)


@pytest.fixture
async def guest(tmp_path):
    guest = Guest(tmp_path)
    yield guest
    guest.programs.end_all("the test has ended")


@pytest.fixture
def sent():
    read, write = os.pipe2(os.O_CLOEXEC)
    os.close(write)
    delivery = Delivery("work", False, Quota(1, 1, 1), read)
    yield delivery
    delivery.close_pipe()


async def keep(guest, delivery):
    """The bytes have arrived."""
    async with keeping(guest, guest.program, delivery):
        delivery.end("")


def test_the_code_for_want_of_room_is_that_of_the_shim():
    assert NO_ROOM == EXIT_NO_ROOM


async def test_it_is_kept_when_the_program_has_ended_well(guest, sent, autojump_clock):
    ended = False

    async def end():
        nonlocal ended
        await trio.sleep(5)
        ended = True
        guest.ends(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        await keep(guest, sent)
        assert ended
    assert not guest.signals


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (NO_ROOM, "personal has no disk space"),
        (1, "personal did not store the file"),
        (-9, "personal did not store the file"),
    ],
)
async def test_a_code_is_a_reason(guest, sent, code, reason):
    guest.ends(code)
    with pytest.raises(RefusedError, match=reason):
        await keep(guest, sent)


async def test_a_program_that_does_not_end_is_cut(guest, sent, autojump_clock):
    began = trio.current_time()
    with (
        trio.fail_after(3600),
        pytest.raises(RefusedError, match="store the file within"),
    ):
        await keep(guest, sent)
    assert trio.current_time() - began == limits.TRANSFER_KEEP_SECONDS
    assert guest.signals == [signal.SIGKILL]


async def test_a_program_that_opens_the_file_is_not_awaited(guest, sent):
    sent.open = True
    with trio.fail_after(5):
        await keep(guest, sent)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError("broken off: Broken pipe"),
        ExceptionGroup("", [UpstreamError("broken off: Broken pipe")]),
    ],
)
async def test_what_breaks_off_for_want_of_room_is_reported_as_that(
    guest, sent, error, autojump_clock
):
    async def end():
        await trio.sleep(1)
        guest.ends(NO_ROOM)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with pytest.raises(RefusedError, match="personal has no disk space"):
            async with keeping(guest, guest.program, sent):
                raise error


async def test_other_reasons_stay_and_are_not_held_up_for_long(
    guest, sent, autojump_clock
):
    began = trio.current_time()
    with pytest.raises(RefusedError, match="too large"):
        async with keeping(guest, guest.program, sent):
            raise RefusedError("too large")
    assert trio.current_time() - began == limits.TRANSFER_CODE_SECONDS
    sent.end("")  # arrived: what fails later has nothing to do with room
    began = trio.current_time()
    with pytest.raises(RefusedError, match="too large"):
        async with keeping(guest, guest.program, sent):
            raise RefusedError("too large")
    assert trio.current_time() == began
