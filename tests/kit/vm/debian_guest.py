"""A Debian 13 machine in QEMU, as an installation is: its kernel, systemd, Podman.

The other machines of the tests run our initramfs and a root that is only read.  This one
has features that they lack: control groups of version 2 that systemd divides, a person's systemd
with lingering, Podman 5 with Quadlet, and the modules of its kernel.

The disk is made once by mmdebstrap in the user's cache (which needs the network); a
machine writes to a snapshot that QEMU drops.  The checkout is on a separate disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import STDOUT, spawn
from broker.host.images.packages import find_archive
from broker.host.vmm.qemu_arguments import MACHINES, Accel, base_args
from tests.kit.link.three_machines import ROOT, Guest
from tests.kit.wayland.compositor import short_directory

PERSON = "ada"
UID = 1000
PYTHON = "3.13"
"""Of the suite: its packages of PyPI are fetched for it."""
_SUITE = "trixie"
_PACKAGES = (
    *("systemd-sysv", "udev", "kmod", "libpam-systemd", "dbus", "dbus-user-session"),
    *("python3", "podman", "crun", "uidmap", "passt", "bubblewrap", "iproute2"),
    *("procps", "e2fsprogs", "libseccomp2", "libpulse0", "libudev1", "libxkbcommon0"),
    *("xkb-data", "fontconfig", "fonts-dejavu-core", "foot", "sway", "grim"),
    *("linux-image-cloud-amd64", "initramfs-tools"),
    *("qemu-system-x86", "systemd-container"),
)
_DISK_BYTES = 6 << 30
_BUILD_SECONDS = 900
_BOOT_SECONDS = 900
_SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
# $1 is the new root.  The person has lingering, as 'loginctl enable-linger' leaves it.
_CUSTOMIZE = f"""\
set -eu
chroot "$1" useradd --uid {UID} --create-home --shell /bin/bash {PERSON}
mkdir -p "$1/var/lib/systemd/linger" "$1/{_SITE}" "$1/srv"
: >"$1/var/lib/systemd/linger/{PERSON}"
echo debian >"$1/etc/hostname"
echo 127.0.0.1 localhost debian >"$1/etc/hosts"
echo /srv >"$1/{_SITE}/vitrail.pth"
tar -xf "$SITE" --no-same-owner -C "$1/{_SITE}"
chroot "$1" python3 -m compileall -q /{_SITE} || :
cat >"$1/etc/fstab" <<'END'
/dev/vda / ext4 rw 0 1
/dev/vdb /srv ext4 rw 0 0
END
cat >"$1/etc/systemd/system/shell.service" <<'END'
[Unit]
Description=The test's hand
RequiresMountsFor=/srv
[Service]
ExecStart=/usr/bin/python3 /srv/vmshell.py port
KillMode=process
[Install]
WantedBy=multi-user.target
END
chroot "$1" systemctl enable shell.service
chroot "$1" systemctl mask apt-daily.timer apt-daily-upgrade.timer \\
    serial-getty@ttyS0.service e2scrub_reap.service
cp "$1"/boot/vmlinuz-* "$OUT/kernel"
cp "$1"/boot/initrd.img-* "$OUT/initrd"
chmod 644 "$OUT/kernel" "$OUT/initrd"
rm -rf "$1"/boot/* "$1"/var/cache/apt/*.bin
"""
# $1 is the directory, $2 MiB.
_MAKE_DISK = """\
mkdir "$1/root"
tar -xpf "$1/root.tar" --exclude='./dev/*' -C "$1/root"
mke2fs -q -t ext4 -d "$1/root" "$1/out/root.ext4" "$2M"
chmod 644 "$1/out/root.ext4"
rm -rf "$1/root" "$1/root.tar"
"""


@dataclass(frozen=True)
class Disk:
    """A built system."""

    directory: Path

    @property
    def words(self) -> tuple[str, ...]:
        """QEMU's words for its kernel and its initramfs."""
        here = self.directory
        return ("-kernel", f"{here}/kernel", "-initrd", f"{here}/initrd")


def debian_disk() -> Disk:
    """Return the system; makes it, or skips and says why it cannot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = cache / "vitrail" / "tests"
    base.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(repr((_PACKAGES, _CUSTOMIZE, _wanted())).encode())
    made = base / f"systemd-machine-{digest.hexdigest()[:16]}"
    with (base / ".systemd-machine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            for old in base.glob("systemd-machine-*"):
                shutil.rmtree(old)
            with _room(base) as room:
                _build(room)
                (room / "out").rename(made)
    return Disk(made)


def _wanted() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["dependencies"]


@contextmanager
def _room(base: Path) -> Iterator[Path]:
    room = Path(tempfile.mkdtemp(prefix=".systemd-machine-", dir=base))
    (room / "out").mkdir()
    # mmdebstrap's hooks are another user of its namespace.
    for path in (room, room / "out"):
        path.chmod(0o777)
    try:
        yield room
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"")[-600:].decode(errors="replace")
        pytest.skip(f"no Debian system can be made here: {error} {said}")
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _build(room: Path) -> None:
    site = room / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-compile")
    _run(*pip, *("--target", str(site), "--python-version", PYTHON),
         *("--only-binary=:all:", *_wanted()))  # fmt: skip
    _run("tar", "-cf", str(room / "site.tar"), "-C", str(site), ".")
    archive = trio.run(find_archive)
    settings = {**archive.options, "APT::Install-Recommends": "false"}
    _run(
        *("mmdebstrap", "--mode=unshare", "--variant=minbase", "--quiet"),
        f"--include={','.join(_PACKAGES)}",
        *(f"--aptopt={key} {json.dumps(settings[key])}" for key in settings),
        *("--dpkgopt=path-exclude=/usr/share/doc/*", f"--customize-hook={_CUSTOMIZE}"),
        *(_SUITE, str(room / "root.tar"), *archive.lines(_SUITE)),
        env={**os.environ, "SITE": str(room / "site.tar"), "OUT": str(room / "out")},
    )
    _make_disk(room)


def _make_disk(room: Path) -> None:
    """Make the disk of ``root.tar``, in a user namespace for the files' owners."""
    words = ("unshare", "--user", "--map-auto", "--map-root-user", "sh", "-euc")
    _run(*words, _MAKE_DISK, "sh", str(room), str(_DISK_BYTES >> 20))


def _run(*words: str, env: dict[str, str] | None = None) -> None:
    env = env or dict(os.environ)
    env["PATH"] = f"{env.get('PATH', '')}:/usr/sbin:/sbin"
    subprocess.run(
        words, check=True, capture_output=True, timeout=_BUILD_SECONDS, env=env
    )


def _project(folder: Path, extra: Mapping[str, Path]) -> Path:
    """A disk with the checkout, and ``extra`` below ``/srv/extra``."""
    tree = folder / "disk"
    for name, source in extra.items():
        place = tree / "extra" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
    without = shutil.ignore_patterns("__pycache__")
    for name in ("broker", "policy", "shims"):
        shutil.copytree(ROOT / name, tree / name, ignore=without)
    shutil.copy(ROOT / "tests/kit/vm/shell.py", tree / "vmshell.py")
    disk = folder / "project.ext4"
    files = [path.stat().st_size for path in tree.rglob("*") if path.is_file()]
    size = f"{300 + (sum(files) >> 20)}M"
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk), size)
    shutil.rmtree(tree)
    return disk


class DebianGuest(Guest):
    """The machine.  Commands of its person are in no session, as in a service."""

    async def try_run(self, command, user=PERSON, env=None, deadline=300):
        home = "/root" if user == "root" else f"/home/{user}"
        runtime = f"/run/user/{0 if user == 'root' else UID}"
        mine = {
            "HOME": home,
            "XDG_RUNTIME_DIR": runtime,
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        return await super().try_run(command, user, {**mine, **(env or {})}, deadline)

    async def run(self, command, *, user=PERSON, env=None, deadline=300):
        return await super().run(command, user=user, env=env, deadline=deadline)

    async def write(self, path, text, user=PERSON):
        await super().write(path, text, user)


@asynccontextmanager
async def debian_guest(
    *,
    memory_mib: int = 2560,
    processors: int = 2,
    extra: Mapping[str, Path] | None = None,
):
    """Boot it; gives it when its systemd has started everything.

    ``extra``: files and directories, by their names below ``/srv/extra``.
    """
    disk = await trio.to_thread.run_sync(debian_disk)
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86 is not installed")
    with short_directory() as base:
        guest = DebianGuest("debian", 0)
        guest.console = base / "console"
        project = await trio.to_thread.run_sync(_project, base, extra or {})
        words = _words(Path(qemu), disk, project, base, memory_mib, processors)
        with (base / "qemu").open("wb") as output:
            child = spawn(words, stdout=output.fileno(), stderr=STDOUT)
        shell = None
        try:
            with trio.fail_after(_BOOT_SECONDS):
                guest.shell = shell = await _connect(base / "shell")
                await guest.run("true", user="root", deadline=_BOOT_SECONDS)
                state = await guest.run(
                    "systemctl is-system-running --wait || :",
                    user="root",
                    deadline=_BOOT_SECONDS,
                )
            assert state.strip() in {"running", "degraded"}, state
            yield guest
        finally:
            with trio.CancelScope(shield=True):
                if shell is not None:
                    await shell.aclose()
                child.kill()
                await child.wait()
            for log in ("qemu", "console"):
                text = (base / log).read_text(errors="replace")[-1500:]
                print(f"--- {log}\n{text}")


async def _connect(path: Path) -> trio.SocketStream:
    with trio.fail_after(60):
        while True:
            try:
                return await trio.open_unix_socket(os.fspath(path))
            except OSError:
                await trio.sleep(0.1)  # QEMU has not made it yet


def _words(
    qemu: Path, disk: Disk, project: Path, base: Path, memory: int, processors: int
) -> list[str]:
    how = MACHINES[Accel.TCG]
    line = ["root=/dev/vda", "rw", "console=ttyS0", "panic=-1", *how.kernel_args]
    # On a busy machine a disk comes after more than the usual ninety seconds, and
    # systemd would give up and wait for root's password.
    line += ["systemd.default_timeout_start_sec=1800"]
    line += ["systemd.default_device_timeout_sec=1800"]
    words = [
        *base_args(qemu, Accel.TCG, name="debian"),
        *("-smp", str(processors), "-m", f"{memory}M"),
        *disk.words,
        *("-append", " ".join(line)),
        *("-serial", f"file:{base}/console"),
        *("-device", "virtio-serial-pci", "-device", "virtio-rng-pci"),
        *("-chardev", f"socket,id=shell,path={base}/shell,server=on,wait=off"),
        *("-device", "virtserialport,chardev=shell,name=shell"),
    ]
    for path in (disk.directory / "root.ext4", project):
        words += ["-drive", f"file={path},format=raw,if=virtio,snapshot=on"]
    return words
