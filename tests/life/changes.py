"""What changes around a broker: one row of ``CHANGES`` for each.

A row's function makes the change, and may look at what is particular to it; all tasks
of ``tasks.py`` are tried after each.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass

import trio

from broker.cli.headless_sway import open_headless_sway
from tests.e2e.test_life import replace_certificates, replace_etc, rotate
from tests.kit.brokerctl import brokerctl
from tests.kit.changing_machine import SMALL_DISK, as_root, remount_proc
from tests.kit.cleaner import sweep
from tests.kit.eventually import eventually
from tests.kit.far_network import (
    NETS,
    OTHER_SERVER,
    joining,
    resolver_is,
)
from tests.kit.memory_pressure import lacks_pressure, press
from tests.kit.shifted_clock import lacks_clock
from tests.kit.sound.servers import restart_pulseaudio
from tests.kit.two_versions import NEW, OLD, lacks_dpkg
from tests.life.life import BOOT_SECONDS, MACHINE, Life
from tests.life.tasks import (
    a_disposable,
    a_machine,
    a_notification,
    a_shell,
    a_tone,
    a_window,
    an_address,
    an_edit,
    asks,
    copies,
    new_host,
    the_checks,
)

REFUSED = (
    "error: cannot write the audit log: database or disk is full\n  hint: check whether"
)
_BURST, _AT_ONCE = 40, 4
HOUR, DAY = 3600, 86400
_CLOCK_SLACK = 120
"""Seconds that a slow machine may have between an event and a look at it."""
_PAUSED = 150
_STOPPED_SECONDS = 30
STOPPED = (sys.executable, "-m", "tests.kit.vm.stopped")
DATE = ("run", "-q", "--no-window", MACHINE, "--", "date", "+%s")
NO_ANSWER = f"to start it anew, run 'brokerctl stop {MACHINE}'"
HOG = "held = []\nwhile True: held.append(bytes([1]) * (1 << 20))"
FULL = "[vitrail: the sandbox's memory was full ("


def _nothing(life: Life) -> str:
    del life
    return ""


@dataclass(frozen=True)
class Change:
    """Something that happens to a broker's machine."""

    name: str
    does: Callable[[Life], Awaitable[None]]
    lacks: Callable[[Life], str] = _nothing
    """What it needs and this machine has not."""
    rounds: float = 0.1
    """How long it takes at most, in rounds of all tasks: a slow machine's are longer."""
    seconds: float = 0
    """How long it takes on each machine."""


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


async def burst(life):
    limit = trio.CapacityLimiter(_AT_ONCE)

    async def one():
        async with limit:
            await life.ctl("run", "-q", "notes", "--", "true")

    async with trio.open_nursery() as nursery:
        for _ in range(_BURST):
            nursery.start_soon(one)


async def squeezed(life):
    await trio.to_thread.run_sync(press)


async def clock_set(life):
    """An hour on, a day on, an hour back, and right again."""
    try:
        for seconds in (HOUR, DAY, -HOUR, 0):
            life.clock.set_on(seconds)
            for task in (asks, a_disposable, an_edit, a_notification, the_checks):
                await task(life)
            # The broker's clock is the one that was set.
            newest = life.w.events()[-1]
            ahead = newest["time_ns"] / 1e9 - time.time()
            assert abs(ahead - seconds) < _CLOCK_SLACK, (seconds, newest)
    finally:
        life.clock.set_on(0)


async def network_interrupted(life):
    """The cable is out: programs fail, the broker answers."""
    as_root("ip", "link", "set", "up0", "down")
    try:
        said = await life.old_box.fetched(new_host(life))
        assert said.startswith("error: "), said
        await asks(life)
        await a_disposable(life)
    finally:
        _join(life.net)


def _join(net):
    for words in joining(net):
        as_root(*words)


async def another_address(life):
    """Another network, with another name server, as a laptop is carried about."""
    life.net = next(net for net in NETS if net != life.net)
    life.name_server = life.net.router
    _join(life.net)
    resolver_is(life.name_server)


async def another_name_server(life):
    known = [OTHER_SERVER, life.net.router]
    known.remove(life.name_server) if life.name_server in known else None
    life.name_server = known[0]
    resolver_is(life.name_server)


async def upgraded(life):
    """New files under the running broker, and the old ones again.

    In a thread: the test also carries the connections of the guest with our agent.
    """
    await trio.to_thread.run_sync(life.package.unpack, NEW)
    try:
        answer = await brokerctl("status", env=life.w.environ)
        said = answer.out.splitlines()[0]
        assert f"brokerctl has version {NEW}" in said, answer
        assert "run 'brokerctl stop --broker'" in said, answer
        for task in (a_window, a_disposable, a_shell, an_address, copies, a_tone):
            await task(life)
    finally:
        await trio.to_thread.run_sync(life.package.unpack, OLD)


def _lacks_machine(life):
    return "" if life.has_machine else "a short life has no machine"


def _lacks_stopping(life):
    return _lacks_machine(life) or lacks_clock()


async def machine_paused(life):
    """As a VMM that the kernel's freezer holds: the guest's time stands still."""
    vmm = await life.w.pid_of("QEMU", MACHINE)
    os.kill(vmm, signal.SIGSTOP)
    try:
        until = trio.current_time() + _PAUSED
        while trio.current_time() < until:
            for task in (asks, a_disposable, a_window):
                await task(life)
    finally:
        os.kill(vmm, signal.SIGCONT)
    await a_machine(life)


async def machine_stopped(life):
    """For an hour of the broker's clock, by QMP: no program and no clock of it goes on.

    It is half a minute of ours, and the broker's clock is set on by an hour meanwhile.
    Then it answers, and its clock follows the broker's, or the user reads how to start it
    again.
    """
    await a_machine(life)
    as_root(*STOPPED, "stop")
    try:
        life.clock.set_on(HOUR)
        until = trio.current_time() + _STOPPED_SECONDS
        while trio.current_time() < until:
            for task in (asks, a_disposable, a_window):
                await task(life)
    finally:
        as_root(*STOPPED, "cont")
    try:
        await asks(life)
        answer = await brokerctl(*DATE, env=life.w.environ, deadline=BOOT_SECONDS)
        if answer.code == 0:
            behind = time.time() + HOUR - int(answer.out)
            print(f"    its clock is {behind:.0f} s behind the broker's", flush=True)
        else:
            assert NO_ANSWER in answer.err, answer
            print("    it is started anew", flush=True)
            await life.new_machine()
        for task in (a_machine, a_disposable):
            await task(life)
    finally:
        life.clock.set_on(0)


async def machine_full(life):
    """A program takes all memory of the micro VM: it is ended, and says why."""
    words = ("run", "-q", "--no-window", MACHINE, "--", "python3", "-c", HOG)
    answer = await brokerctl(*words, env=life.w.environ, deadline=BOOT_SECONDS)
    assert answer.code == 128 + signal.SIGKILL, answer
    assert FULL in answer.err, answer
    await asks(life)
    await a_machine(life)


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
    Change("forty disposables start and end", burst, rounds=1),
    Change("memory is short", squeezed, lambda _: lacks_pressure()),
    Change(
        "the clock is set on and back", clock_set, lambda _: lacks_clock(), rounds=2.5
    ),
    Change("the network is interrupted", network_interrupted, rounds=1),
    Change("the machine has another address", another_address),
    Change("the machine has another name server", another_name_server),
    Change(
        "the package is upgraded and back", upgraded, lambda _: lacks_dpkg(), rounds=1.5
    ),
    Change("a micro VM is paused", machine_paused, _lacks_machine, seconds=_PAUSED),
    Change(
        "a micro VM is stopped for an hour",
        machine_stopped,
        _lacks_stopping,
        rounds=2.5,
        seconds=_STOPPED_SECONDS,
    ),
    Change("a micro VM's memory is full", machine_full, _lacks_machine, rounds=0.5),
)
