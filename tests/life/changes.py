"""What changes around a broker: one row of ``CHANGES`` for each.

A row's function makes the change, and may look at what is particular to it; all tasks
of ``tasks.py`` are tried after each.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass

import trio

from broker.cli.headless_sway import open_headless_sway
from tests.e2e.test_life import replace_certificates, replace_etc, rotate
from tests.kit.brokerctl import brokerctl
from tests.kit.changing_machine import SMALL_DISK, remount_proc
from tests.kit.cleaner import sweep
from tests.kit.eventually import eventually
from tests.kit.sound.servers import restart_pulseaudio
from tests.life.life import Life

REFUSED = (
    "error: cannot write the audit log: database or disk is full\n  hint: check whether"
)
_DOZEN, _AT_ONCE = 12, 4


@dataclass(frozen=True)
class Change:
    """Something that happens to a broker's machine."""

    name: str
    does: Callable[[Life], Awaitable[None]]


async def reclaim(life):
    remount_proc()


async def etc_replaced(life):
    replace_etc()


async def certificates_replaced(life):
    replace_certificates()


async def swept(life):
    await sweep(life.w.base, life.w.paths.runtime.parent)
    shutil.rmtree(life.w.paths.runtime.parent / "other", ignore_errors=True)
    (life.w.base / "clean.conf").unlink()  # the test's own, no growth


async def log_rotated(life):
    log = life.w.paths.state / "broker.log"
    rotate(log)
    log.touch(mode=0o600)


async def compositor_restarted(life):
    w = life.w
    display = w.comp.display
    await life.end_resident()
    await w.comp.close()
    w.comp = life.screen.comp = await open_headless_sway(display.parent)
    assert w.comp.display == display
    await life.screen.server.stop()
    await life.screen.begin_server()
    await life.begin_resident()


async def sound_restarted(life):
    await restart_pulseaudio(life.stack, life.sound)


async def bus_restarted(life):
    await life.screen.end()
    await life.screen.begin_bus()
    await life.screen.begin_server()


async def second_screen(life):
    """It comes, has a window, and goes."""
    outputs = await life.outputs()
    if "HEADLESS-2" not in outputs:
        await life.w.comp.command("create_output")
    await life.w.comp.command("output HEADLESS-2 enable position 1280 0 scale 2")
    assert len(await life.outputs()) == 2
    command = '[title="resident$"] move container to output HEADLESS-2'
    await life.w.comp.command(command)
    await life.still_there()
    await life.w.comp.command("output HEADLESS-2 disable")


async def scale(life):
    now = (await life.outputs())["HEADLESS-1"]["scale"]
    await life.w.comp.command(f"output HEADLESS-1 scale {3 - now:g}")


async def resolution(life):
    now = (await life.outputs())["HEADLESS-1"]["current_mode"]["width"]
    size = "1024x768" if now == 1280 else "1280x800"
    await life.w.comp.command(f"output HEADLESS-1 resolution {size}")


async def full_disk(life):
    """What must be recorded is refused with the reason; what is freed is used again."""
    filler = SMALL_DISK / "filler"
    await eventually(lambda: _no_room_in_the_log(life))
    try:
        _fill(filler)
        answer = await brokerctl(
            *("run", "-q", "notes", "--", "true"), env=life.w.environ
        )
        assert answer.code == 1, answer
        assert REFUSED in answer.err, answer
        for words in (("status",), ("list",), ("audit",)):
            await life.ctl(*words)
    finally:
        filler.unlink()


def _no_room_in_the_log(life):
    """Have the log's pages written, so that the file for new ones is empty again."""
    with closing(sqlite3.connect(life.w.paths.audit)) as log:
        return not log.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]


def _fill(filler):
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


async def dozen(life):
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def one():
        async with limit:
            await life.ctl("run", "-q", "notes", "--", "true")

    async with trio.open_nursery() as nursery:
        for _ in range(_DOZEN):
            nursery.start_soon(one)


CHANGES = (
    Change("the kernel gives up entries of procfs", reclaim),
    Change("files of /etc are replaced", etc_replaced),
    Change("certificates are replaced", certificates_replaced),
    Change("the runtime directory is swept", swept),
    Change("the log is rotated", log_rotated),
    Change("the compositor is restarted", compositor_restarted),
    Change("the sound server is restarted", sound_restarted),
    Change("the session bus is restarted", bus_restarted),
    Change("a second screen comes and goes", second_screen),
    Change("the scale changes", scale),
    Change("the resolution changes", resolution),
    Change("the disk is full, and freed", full_disk),
    Change("a dozen disposables start and end", dozen),
)
