"""``brokerctl doctor --report``: measure this machine, for a page about real machines.

A window of ``shims/measured_window.py`` is shown directly and in a box, through the same
command as any program.  The report has figures, and words of closed lists, so that no
name of the user, the machine or a path is in it; the processor's model is the one text
of another kind, and is left out if it has such a name.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import trio

import shims
from broker import __version__
from broker.cli.doctor import host
from broker.cli.doctor.finding import Context, Finding, FindingState
from broker.cli.run.connect import open_client
from broker.core.decoding import UNREADABLE
from broker.core.distribution import parse_os_release
from broker.core.errors import VitrailError
from broker.helpers.compositor_socket import find_compositor
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import STATUS

FORMAT = 1
"""Version of the report's form; docs/print_hardware.py reads all."""
TOTAL_SECONDS = 118.0
_PARTS = 5
"""Film, scrolling and sound, and keys for twice the time."""
_EXTRA_SECONDS = 20.0
"""What a window may take in addition to its parts."""
_PROBE_SECONDS = 12.0
_DISTRIBUTIONS = (
    *("debian", "ubuntu", "fedora", "opensuse-tumbleweed", "opensuse-leap"),
    *("opensuse-microos", "arch", "nixos", "linuxmint", "pop", "manjaro", "rhel"),
)
_DESKTOPS = ("GNOME", "KDE", "sway", "Hyprland", "XFCE", "labwc", "niri", "COSMIC")
_DRIVERS = ("i915", "xe", "amdgpu", "radeon", "nouveau", "nvidia", "virtio_gpu", "vc4")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(r"[A-Za-z0-9]+")
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9 .()@+-]")
_NOT_SHOWN = "the window was not shown, or not in time"
_REASONS = (
    "no compositor is running",
    _NOT_SHOWN,
    "the compositor lacks a needed protocol",
    "no picture was presented",
    "no key was pressed in the window",
    "libpulse-simple is not installed",
    "no sound server can be reached",
    "the sound server ended the stream",
    "the box did not start",
    "the machine did not start, or not in time",
    "no record was named with --machine",
    "the time was over",
)
"""Why a row is missing: whole sentences, since an error of this machine may have names."""


class _Figures(msgspec.Struct, omit_defaults=True):
    """What a window measured in one part, or why it did not."""

    missing: str = ""
    frames_per_second: float | None = None
    longest_pause_ms: float | None = None
    keys: int | None = None
    median_ms: int | None = None
    most_ms: int | None = None
    latency_ms: float | None = None
    jitter_ms: float | None = None


class _WindowOutput(msgspec.Struct):
    """The line that ``shims/measured_window.py`` prints."""

    film: _Figures | None = None
    scroll: _Figures | None = None
    key: _Figures | None = None
    sound: _Figures | None = None
    window: _Figures | None = None
    first_picture: float | None = None
    by: str = ""
    gpu_buffers: bool = False


@dataclass(frozen=True)
class ReportOptions:
    """Seconds of each part, and a machine's record."""

    seconds: float = 8.0
    machine: str = ""


async def measure(
    context: Context, options: ReportOptions, show: Callable[[str], None]
) -> dict[str, Any]:
    """Return the report; ``show`` gets a line for each step.  Raises no VitrailError."""
    report: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(context.environ),
        "measurements": {},
    }
    rows = report["measurements"]
    with trio.move_on_after(TOTAL_SECONDS) as scope:
        show("KVM: testing whether a guest boots")
        rows["kvm"] = await _probe_kvm(context)
        await _measure_windows(context, options, show, rows)
        rows["machine"] = await _measure_machine(context, options, show)
    if scope.cancelled_caught:
        for name in ("kvm", "directly", "box", "memory", "machine"):
            rows.setdefault(name, _missing("the time was over"))
    return report


async def _probe_kvm(context: Context) -> dict[str, Any]:
    findings: Sequence[Finding] = []
    with trio.move_on_after(_PROBE_SECONDS), suppress(VitrailError, OSError):
        findings = await host.check_kvm(context)
    return {"usable": any(f.state is FindingState.OK for f in findings)}


async def _measure_windows(
    context: Context,
    options: ReportOptions,
    show: Callable[[str], None],
    rows: dict[str, Any],
) -> None:
    if find_compositor(context.environ) is None:
        for name in ("directly", "box", "memory"):
            rows[name] = _missing("no compositor is running")
        return
    show("directly: film, scrolling, keys, sound (press keys in the window)")
    rows["directly"] = await _run_window(context, options, [])
    show("box: starting the broker, and a first box")
    run = our_program("broker.cli.app", "run", "--quiet", "--bwrap", "--")
    try:
        await run_tool([*run, "true"], env=context.environ, deadline=30)
        memory_before = await _memory(context)
    except (VitrailError, OSError):
        rows["box"] = rows["memory"] = _missing("the box did not start")
        return
    show("box: the same (press keys in the window)")
    highest = [0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_memory, context, highest)
        rows["box"] = await _run_window(context, options, run)
        nursery.cancel_scope.cancel()
    rows["memory"] = {
        "broker_mib": memory_before >> 20,
        "box_mib": max(0, highest[0] - memory_before) >> 20,
    }


async def _run_window(
    context: Context, options: ReportOptions, command: list[str]
) -> dict[str, Any]:
    """Return what the window measured, below a command that starts programs."""
    program = Path(shims.__file__).with_name("measured_window.py")
    code = program.read_text(encoding="utf-8")
    argv = [*command, "python3", "-I", "-c", code, str(options.seconds)]
    deadline = _PARTS * options.seconds + _EXTRA_SECONDS
    began = time.monotonic()
    try:
        untrusted_output = await run_tool(argv, env=context.environ, deadline=deadline)
        return take_rows(untrusted_output, began)
    except (VitrailError, OSError, *UNREADABLE):
        return _missing(_NOT_SHOWN)


def take_rows(untrusted_output: bytes, began: float) -> dict[str, Any]:
    """Return the rows of a window: numbers, and reasons of the closed list.

    Raises UNREADABLE for the output of another program.
    """
    output = msgspec.json.decode(untrusted_output, type=_WindowOutput)
    rows: dict[str, Any] = {
        name: msgspec.to_builtins(figures)
        if not figures.missing
        else _missing(figures.missing)
        for name in ("film", "scroll", "key", "sound", "window")
        if (figures := getattr(output, name)) is not None
    }
    if output.first_picture is not None:
        rows["start"] = {"seconds": round(output.first_picture - began, 2)}
    rows["by_presentation"] = output.by == "presentation"
    rows["gpu_buffers"] = output.gpu_buffers
    return rows


async def _memory(context: Context) -> int:
    """Return the memory of the broker and all of its processes, in bytes."""
    async with open_client(context.paths) as client:
        status = await client.call(STATUS, Nothing())
    return sum(process.memory for process in status.processes)


async def _watch_memory(context: Context, highest: list[int]) -> None:
    while True:
        try:
            highest[0] = max(highest[0], await _memory(context))
        except (VitrailError, OSError):
            return
        await trio.sleep(1)


async def _measure_machine(
    context: Context, options: ReportOptions, show: Callable[[str], None]
) -> dict[str, Any]:
    """Measure from the command to the end of the first program in a micro VM."""
    if not options.machine:
        return _missing("no record was named with --machine")
    show(f"machine: starting '{options.machine}'")
    argv = our_program(
        *("broker.cli.app", "run", "--quiet", "--no-window", options.machine, "--"),
        "true",
    )
    began = time.monotonic()
    try:
        await run_tool(argv, env=context.environ, deadline=TOTAL_SECONDS)
    except (VitrailError, OSError):
        return _missing("the machine did not start, or not in time")
    return {"start": {"seconds": round(time.monotonic() - began, 2)}}


def _missing(reason: str) -> dict[str, str]:
    """Return a row without figures; a reason that is not listed is replaced."""
    # guard: a report has no text of a window
    return {"missing": reason if reason in _REASONS else _NOT_SHOWN}


# -- the machine -----------------------------------------------------------------------


def describe_machine(
    environ: Mapping[str, str], root: Path = Path("/")
) -> dict[str, Any]:
    """Return what this machine is, without names."""
    cpuinfo = _read(root / "proc/cpuinfo")
    release = parse_os_release(_read(root / "etc/os-release"))
    memory = _NUMBER.search(_read(root / "proc/meminfo"))
    drivers = {
        (node / "device/driver").resolve().name
        for node in (root / "sys/class/drm").glob("renderD*")
    }
    kernel = _NUMBER.match(_read(root / "proc/sys/kernel/osrelease"))
    version = _NUMBER.search(release.get("VERSION_ID", ""))
    return {
        "architecture": platform.machine(),
        "processor": without_names(_field(cpuinfo, "model name"), _names(environ)),
        "processors": os.cpu_count(),
        "virtual": "hypervisor" in _field(cpuinfo, "flags").split(),
        "memory_gib": round(int(memory[0]) / (1 << 20), 1) if memory else None,
        "kernel": kernel[0] if kernel else None,
        "distribution": _listed([release.get("ID", "")], _DISTRIBUTIONS),
        "distribution_version": version[0] if version else None,
        "desktop": _listed(
            environ.get("XDG_CURRENT_DESKTOP", "").split(":"), _DESKTOPS
        ),
        "gpu": [_listed([name], _DRIVERS) for name in sorted(drivers)],
    }


def without_names(text: str, names: Iterable[str]) -> str:
    """Return the processor's model, or nothing if a name is a word of it."""
    parts = {part.lower() for part in _WORD.findall(text)}
    # guard: no name of the user or machine is in a report
    if any(parts & {part.lower() for part in _WORD.findall(name)} for name in names):
        return "not given"
    return _NOT_IN_NAME.sub("", text)[:80].strip()


def _names(environ: Mapping[str, str]) -> list[str]:
    """Return names of the user and of this machine, as far as they are known."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    home = Path(environ.get("HOME", "")).name
    return [user, home, environ.get("USER", ""), platform.node()]


def _listed(names: Iterable[str], closed_list: Iterable[str]) -> str:
    """Return the first name of a closed list: another one may be anything."""
    return next(
        (item for item in closed_list for name in names if item == name), "other"
    )


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1] if match else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
