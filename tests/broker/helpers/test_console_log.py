"""The console log: two bounded files, whatever the guest writes."""

from __future__ import annotations

import errno

import trio
import trio.testing

from broker.helpers import console_log as console
from broker.helpers.console_log import ConsoleLog
from broker.host.vmm.console_pump import pump_console


def test_bytes_are_kept_as_they_came(tmp_path):
    log = ConsoleLog(tmp_path / "logs")
    log.write(b"\x1b[2J\xff\0")
    log.close()
    assert log.path.read_bytes() == b"\x1b[2J\xff\0"
    assert log.path.stat().st_mode & 0o777 == 0o600
    assert log.path.parent.stat().st_mode & 0o777 == 0o700
    assert not log.older.exists()


def test_the_log_is_rotated_at_its_limit_and_not_before(tmp_path):
    log = ConsoleLog(tmp_path, limit=10)
    log.write(b"0123456789")
    assert not log.older.exists()
    log.write(b"a")
    assert log.older.read_bytes() == b"0123456789"
    assert log.path.read_bytes() == b"a"
    log.write(b"x" * 1000)
    log.close()
    assert log.older.stat().st_size == 10
    assert log.path.stat().st_size <= 10
    assert len(list(tmp_path.iterdir())) == 2


def test_a_second_broker_goes_on_where_the_first_stopped(tmp_path):
    for piece in (b"12345", b"67890", b"a"):
        log = ConsoleLog(tmp_path, limit=10)
        log.write(piece)
        log.close()
    assert log.older.read_bytes() == b"1234567890"
    assert log.path.read_bytes() == b"a"


def test_a_full_disk_loses_bytes_and_nothing_else(tmp_path, monkeypatch):
    log = ConsoleLog(tmp_path)

    def full(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log, "_keep", full)
    log.write(b"12345")
    assert log.lost == 5
    log.close()


async def test_a_flood_is_read_no_faster_than_the_limit(
    tmp_path, nursery, autojump_clock, monkeypatch
):
    monkeypatch.setattr(console.limits, "CONSOLE_BYTES_PER_SECOND", 1000)
    log = ConsoleLog(tmp_path)
    far, near = trio.testing.memory_stream_pair()
    nursery.start_soon(pump_console, near, log)
    await far.send_all(b"x" * 20000)
    await trio.sleep(5)
    size = log.path.stat().st_size
    assert 5000 <= size <= 5000 + 4096, "a chunk, then as the rate allows"
    await far.aclose()
    await trio.sleep(20)
    assert log.path.stat().st_size == 20000
    log.close()


def test_a_log_comes_back_when_there_is_room_again(tmp_path, monkeypatch):
    """Also when it was its rotation that failed."""
    log = ConsoleLog(tmp_path, limit=10)
    log.write(b"0123456789")

    def full(path, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(console.os, "open", full)
        log.write(b"abc")
        log.write(b"def")
        assert log.lost == 6
    log.write(b"ghi")
    assert log.path.read_bytes() == b"ghi"
    assert log.older.read_bytes() == b"0123456789"
    log.close()


def test_words_after_the_end_are_lost(tmp_path):
    log = ConsoleLog(tmp_path)
    log.close()
    log.write(b"late")
    assert log.lost == 4
    assert log.path.read_bytes() == b""
