"""The guest package in other systems than this machine's: their Python, shell, tools.

Debian's releases have Python 3.9 (bullseye) and later ones; a system of busybox alone,
without bash, coreutils and systemd, is as Alpine's, but for its C library.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from broker.ipc import agent
from shims import bundle
from tests.kit.vm.guest_container import GuestContainer, output
from tests.kit.vm.suite_root import suite_root
from tests.kit.wayland.compositor import short_directory

pytestmark = pytest.mark.slow
PACKAGES = ("python3", "waypipe", "busybox")
SUITES = {"bullseye": (3, 9), "trixie": (3, 13), "sid": (3, 13)}
PYTHON = "import sys; print(*sys.version_info[:2])"
# Of systemd's and of the shells and tools that a small system does without.
ABSENT = ("bash", "systemctl", "setsid.util-linux", "perl", "apt-get", "getent")
OPENRC = "#!/bin/sh\nexit 0\n"


@pytest.fixture
def base():
    with short_directory() as directory:
        yield directory


@pytest.fixture
def script(base):
    path = base / "installer.sh"
    path.write_bytes(bundle.guest_installer())
    return path


def there(base):
    """The installer's files, in the places that it may write to."""
    return {
        path.relative_to(base)
        for name in ("etc", "local", "var")
        for path in (base / name).rglob("*")
        if not path.is_dir()
    }


async def serves(guest, *, window):
    """The installed agent runs programs, and has waypipe for their windows."""
    async with guest.agent() as broker:
        hello = await broker.accept()
        assert hello.version == agent.VERSION
        assert await output(broker, "sh", "-c", "echo $USER; exit 7") == ("ada\n", 7)
        version, code = await output(broker, "python3", "-c", PYTHON)
        if window:
            await broker.run("true", display=True)  # once waypipe has a socket
            await broker.receive(agent.AgentStarted)
        assert code == 0
        return tuple(int(word) for word in version.split())


async def whole(guest, script, *words, window=True):
    """Install, run, remove; returns the version of Python that ran it, and its files."""
    guest.words(uid=0)
    before = there(guest.base)
    made = guest.as_root(script, "--no-packages", *words)
    assert made.returncode == 0, made.stderr
    assert ("waypipe 0.8 or later is missing" in made.stdout) != window
    files = there(guest.base) - before
    version = await serves(guest, window=window)
    gone = guest.as_root(script, "--uninstall")
    assert gone.returncode == 0, gone.stderr
    assert there(guest.base) - {Path("log")} == before
    return version, {str(name) for name in files}


@pytest.fixture(params=SUITES)
def suite(request):
    return request.param, suite_root(request.param, PACKAGES)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_with_the_python_and_the_waypipe_of_another_release(base, script, suite):
    """bullseye's waypipe is too old for windows; its programs run."""
    suite, root = suite
    guest = GuestContainer(base, root)
    version, _files = await whole(
        guest, script, "--init", "none", window=suite != "bullseye"
    )
    assert version >= SUITES[suite]
    assert suite == "sid" or version == SUITES[suite]


async def test_with_busybox_alone_and_openrc(base, script):
    """Each tool of it is busybox's, the shell too."""
    programs = small_system(base)
    binds = ("--ro-bind", str(programs), "/usr/bin", "--tmpfs", "/usr/sbin")
    binds += ("--tmpfs", "/usr/lib/systemd")
    init = base / "openrc-run"
    init.write_text(OPENRC)
    init.chmod(0o755)
    binds += ("--ro-bind", str(init), "/usr/sbin/openrc-run")
    guest = GuestContainer(base, binds=binds)
    look = "for name in {}; do command -v $name; done; readlink -f /bin/awk; readlink -f /bin/sh"
    seen = subprocess.run(
        [*guest.words(uid=0), "sh", "-c", look.format(" ".join(ABSENT))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.stdout.split() == ["/usr/bin/busybox"] * 2, seen.stderr
    _version, files = await whole(guest, script)
    assert {"etc/init.d/vitrail-guest", "etc/runlevels/default/vitrail-guest"} <= files
    assert not any("systemd" in name for name in files)


def small_system(base):
    """A /usr/bin with busybox's programs, Python and waypipe, and no others."""
    busybox = shutil.which("busybox")
    if busybox is None or shutil.which("waypipe") is None:
        pytest.skip("busybox or waypipe is not installed")
    folder = base / "programs"
    folder.mkdir()
    shutil.copy(busybox, folder / "busybox")
    listed = subprocess.run(
        [busybox, "--list"], capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split():
        if name != "busybox":
            (folder / name).symlink_to("busybox")
    for name in ("python3", "waypipe"):
        shutil.copy(f"/usr/bin/{name}", folder / name)
    return folder
