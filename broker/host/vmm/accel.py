"""Which accelerator a machine gets: KVM where it really boots, TCG otherwise.

An openable /dev/kvm proves nothing: there are hosts where machines are made,
processors run, and no Linux ever prints a line.  So our own guest kernel is
booted once under it, on each machine type that we use, until one boots.  That one is
kept until the host boots again.  A failure is kept for minutes: the disk may have been
slow, or another program may have had the processor's virtualization.
``VITRAIL_ACCEL``, one of ``Accel``, decides without a look.

Used by the host's process, and by brokerctl (doctor, and run of throwaway machines).
"""

from __future__ import annotations

import grp
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError, UpstreamError
from broker.core.files.replace_file import replace_file
from broker.helpers.process.identity import boot_id
from broker.helpers.process.spawn import spawn
from broker.host.vmm.qemu_arguments import MACHINES, Accel, base_args
from broker.ipc.captured_stderr import FirstWords

DEVICE = Path("/dev/kvm")
VARIABLE = "VITRAIL_ACCEL"
ACCEL_FILE = "accel.json"

# Either proves that our kernel ran: its first line, or what the guest's
# first process prints for 'vitrail.probe=1'.  Firmware prints neither.
MARKERS = (b"Linux version ", b"vitrail-probe-ok")
_LONGEST_MARKER = max(map(len, MARKERS))


@dataclass(frozen=True)
class AcceleratorChoice:
    """The accelerator, why it is that one, and what would give a better one."""

    accel: Accel
    reason: str
    hint: str = ""
    tested: bool = False
    """Whether this very call has tested KVM."""


_HINT = "if another hypervisor runs (such as VirtualBox), end it; to test again at once, run 'brokerctl doctor'"


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    boot: str
    accel: Accel
    reason: str
    tested_at: float
    """When it was tested, in seconds since 1970."""
    failures: int = 0
    """How many tests have failed, one after another."""

    @property
    def fresh(self) -> bool:
        """Whether the answer need not be tested again."""
        age = time.time() - self.tested_at
        # guard: a failed test of KVM is repeated after some minutes
        lifetime = limits.KVM_RETRY_SECONDS * 2 ** min(self.failures - 1, 3)
        return self.accel.uses_kvm or 0 <= age < lifetime


async def choose_accel(
    qemu: Path,
    kernel: Path,
    initrd: Path,
    *,
    cache: Path,
    environ: Mapping[str, str] | None = None,
    device: Path = DEVICE,
    again: bool = False,
    progress: Callable[[str], None] | None = None,
) -> AcceleratorChoice:
    """Choose KVM or TCG for machines; a test of KVM takes up to 10 s a machine type.

    ``again``: test it also if an earlier answer is kept.  ``progress`` is called before
    a test.

    ``cache`` is a directory of this user's (``Paths.cache``).  Raises SetupError when
    VITRAIL_ACCEL is not one of ``Accel``, or requires a ``device`` that cannot be
    opened.  The first call boots a kernel in QEMU, and writes its answer in ``cache``.
    """
    forced = (os.environ if environ is None else environ).get(VARIABLE, "")
    if forced:
        return _forced(forced, device)
    missing = permission(device)
    if missing is not None:
        return missing
    kept = _read(cache / ACCEL_FILE)
    tested = kept is None or again or not kept.fresh
    if kept is None or tested:
        if progress is not None:
            progress("testing KVM with a kernel of our own, for up to 20 s")
        failures = 0 if kept is None else kept.failures
        kept = await _probe_kvm(qemu, kernel, initrd, failures)
        _write(cache / ACCEL_FILE, kept)
    hint = "" if kept.accel.uses_kvm else _HINT
    return AcceleratorChoice(kept.accel, kept.reason, hint, tested)


def _forced(word: str, device: Path) -> AcceleratorChoice:
    """Return the acceleration that the variable forces.  Raises SetupError."""
    try:
        accel = Accel(word)
    except ValueError:
        raise SetupError(
            f"invalid {VARIABLE}: {word!r}", hint=f"set {VARIABLE} to 'kvm' or 'tcg'"
        ) from None
    missing = permission(device) if accel.uses_kvm else None
    if missing is not None:
        without = f"to emulate machines, which is slower, unset {VARIABLE}"
        raise SetupError(
            f"cannot use KVM, which {VARIABLE}={word} requires: {missing.reason}",
            hint="; ".join(filter(None, (missing.hint, without))),
        )
    return AcceleratorChoice(accel, f"{VARIABLE}={word}")


def permission(device: Path = DEVICE) -> AcceleratorChoice | None:
    """Return None if /dev/kvm can be opened, else the choice of TCG and its reason."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return AcceleratorChoice(
            Accel.TCG,
            f"this machine has no {device}",
            hint="enable virtualization in the firmware, then run 'sudo modprobe kvm_intel' or 'sudo modprobe kvm_amd'",
        )
    except PermissionError:
        return AcceleratorChoice(
            Accel.TCG, f"cannot open {device}: permission denied", hint=_join(device)
        )
    except OSError as error:
        return AcceleratorChoice(Accel.TCG, f"cannot open {device}: {error.strerror}")
    return None


def known_accel(cache: Path, environ: Mapping[str, str]) -> Accel | None:
    """Return the accelerator of machines; None: KVM was not tested yet."""
    if (forced := environ.get(VARIABLE, "")) in set(Accel):
        return Accel(forced)
    if (missing := permission()) is not None:
        return missing.accel
    answer = _read(cache / ACCEL_FILE)
    return None if answer is None else answer.accel


def why_not_copied(accel: Accel | None, *, kernel_vsock: bool) -> str:
    """Return why fork = "copy" does nothing for machines of this kind; "": it works."""
    # What carries their streams is the kernel's, whose state cannot be saved, or a
    # process that was not tried with copies under KVM.
    if accel not in {None, Accel.TCG}:
        return 'KVM machines can be copied only with fork = "shared"'
    if kernel_vsock:
        return 'kernel vsock machines can be copied only with fork = "shared"'
    return ""


def _join(device: Path) -> str:
    """Return the command by which a user joins the group of the KVM device."""
    info = device.stat()
    try:
        group = grp.getgrgid(info.st_gid).gr_name
    except KeyError:
        group = str(info.st_gid)
    if group == "root" or info.st_mode & 0o060 != 0o060:
        return f"run 'sudo chgrp kvm {device}; sudo chmod 660 {device}; sudo usermod -aG kvm $USER' and log in again"
    return f"run 'sudo usermod -aG {group} $USER' and log in again"


async def _probe_kvm(qemu: Path, kernel: Path, initrd: Path, failures: int) -> _Kept:
    """Boot our kernel under KVM; return on which machine type that works.

    ``failures``: how many such tests have failed before.
    """
    problems: dict[str, list[str]] = {}
    # guard: KVM is used by a QEMU that lacks microvm
    for accel in (Accel.KVM, Accel.KVM_Q35):
        machine = MACHINES[accel].machine.partition(",")[0]
        try:
            marker = await boot_probe(qemu, kernel, initrd, accel)
        except UpstreamError as error:
            problems.setdefault(str(error), []).append(machine)
            continue
        reason = f"KVM booted a guest of the machine type {machine} ({marker})"
        return _Kept(boot_id(), accel, reason, time.time())
    details = "; ".join(f"{', '.join(on)}: {error}" for error, on in problems.items())
    reason = f"KVM cannot boot a guest ({details})"
    return _Kept(boot_id(), Accel.TCG, reason, time.time(), failures + 1)


async def boot_probe(
    qemu: Path,
    kernel: Path,
    initrd: Path,
    accel: Accel,
    *,
    deadline: float = limits.KVM_PROBE_SECONDS,
) -> str:
    """Boot the kernel in QEMU and return which marker it printed.

    Raises UpstreamError when none comes within ``deadline`` seconds or QEMU
    ends first, with the reason; SetupError when QEMU is not installed.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    first_words = FirstWords()
    console = trio.lowlevel.FdStream(read_end)
    try:
        try:
            child = spawn(
                probe_args(qemu, kernel, initrd, accel),
                name="QEMU",
                env={"PATH": os.defpath},
                stdout=write_end,
                stderr=first_words.fd,
            )
        finally:
            os.close(write_end)
        try:
            with trio.move_on_after(deadline):
                found = await _look(console)
                if found:
                    return found
                raise UpstreamError(
                    f"QEMU exited before the kernel started: {first_words.text(200)}"
                )
        finally:
            await child.kill_and_wait()
    finally:
        first_words.close()
        await console.aclose()
    raise UpstreamError(f"the kernel printed nothing for {deadline:g} s")


def probe_args(qemu: Path, kernel: Path, initrd: Path, accel: Accel) -> list[str]:
    """Return QEMU's command line for the probe: a kernel and a console only."""
    return [
        *base_args(qemu, accel, name="vitrail-probe"),
        *("-m", "256M"),
        *("-kernel", str(kernel)),
        *("-initrd", str(initrd)),
        *("-append", "console=ttyS0 panic=-1 reboot=t vitrail.probe=1"),
        *("-chardev", "stdio,id=console,signal=off"),
        *("-serial", "chardev:console"),
    ]


async def _look(console: trio.lowlevel.FdStream) -> str:
    """Read until a marker; "" at the end or beyond ``KVM_PROBE_BYTES``."""
    tail = b""
    room = limits.KVM_PROBE_BYTES
    async for data in console:
        tail = tail[-_LONGEST_MARKER:] + data[:room]
        for marker in MARKERS:
            if marker in tail:
                return marker.decode().strip()
        room -= len(data)
        if room <= 0:
            break
    return ""


def _read(path: Path) -> _Kept | None:
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (OSError, *UNREADABLE):
        return None  # it is only a cache: test again
    return kept if kept.boot == boot_id() else None


def _write(path: Path, kept: _Kept) -> None:
    """Write the answer into the cache; an error only costs another look."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, msgspec.json.encode(kept))
    except OSError:
        return  # the next start looks again, that is all
