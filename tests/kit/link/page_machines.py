"""Two machines with systemd, at which a test types what a page says.

The host is this machine's ordinary user with a systemd of their own, which takes the place
of the user manager: a host starts machines, and emulated in an emulated one they would take
minutes.  The viewer is a machine that the host's systemd starts by the script and the unit
of ``migration.md``; systemd boots it, and it has a disk and a session of sway's.
"""

from __future__ import annotations

import base64
import gzip
import io
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio
from PIL import Image

from broker.core.paths import find_paths
from broker.helpers.process.spawn import Child, spawn
from tests.kit.eventually import eventually
from tests.kit.link.three_machines import ROOT, Guest, Lab
from tests.kit.pages import DOCS, blocks
from tests.kit.vm.brokers import SWAY, SWAY_CONFIG
from tests.kit.world import processes

UNITS = ROOT / "broker/data/systemd"
_SYSTEMD = "/lib/systemd/systemd"
# 'systemd --user' and 'systemctl' look for this directory; no other process sees it.
_AS_BOOTED = "bwrap --dev-bind / / --tmpfs /run/systemd --dir /run/systemd/system --"
_PROGRAM = '#!/bin/sh\nexport {variables}\nexec {python} -m {module} "$@"\n'
_MODULES = {
    "brokerctl": "broker.cli.app",
    "vitrail-host": "broker.programs.host",
    "vitrail-viewer": "broker.programs.viewer",
}
_HOME, _RUNTIME = "/home/person", "/run/user/2000"
PERSON = {
    "HOME": _HOME,
    "XDG_RUNTIME_DIR": _RUNTIME,
    "DBUS_SESSION_BUS_ADDRESS": f"unix:path={_RUNTIME}/bus",
}
# A compositor that comes after the broker, which the host's first attempt has started.
_LATE = "until systemctl --user -q is-active vitrail-viewer; do sleep 5; done"
_SWAY_UNIT = f"""\
[Service]
{"".join(f"Environment={key}={value}{chr(10)}" for key, value in SWAY.items())}\
Environment=SWAYSOCK=%t/sway.sock
ExecStartPre=/bin/sh -c 'test ! -e %h/late || {_LATE}'
TimeoutStartSec=infinity
ExecStart=/usr/bin/sway -c %h/sway.conf
[Install]
WantedBy=default.target
"""
_IMPORT = "exec systemctl --user import-environment WAYLAND_DISPLAY SWAYSOCK\n"


def _program(python: str, module: str, **variables: str) -> str:
    words = " ".join(f"{name}={shlex.quote(text)}" for name, text in variables.items())
    return _PROGRAM.format(variables=words, python=python, module=module)


# In the place of QEMU for the page's script.  Its disk would boot by itself; this lab's
# machines have a kernel and an initramfs beside theirs.  It has no screen, and KVM only
# where that boots.
_QEMU = """\
#!{python}
import os, sys
words, here = sys.argv[1:], {words!r}
at = words.index("-drive")
assert words[at + 1].startswith("file=viewer.qcow2,")
del words[at : at + 2]
while "-accel" in here and "-accel" in words:
    at = words.index("-accel")
    del words[at : at + 2]
os.execv({qemu!r}, [{qemu!r}, *words, *here, "-display", "none"])
"""
_FIRST = "[Service]\nEnvironment=PATH={path}\n"


def can_be_host() -> bool:
    """Whether a systemd of the user's own starts here."""
    return (
        Path(_SYSTEMD).exists()
        and shutil.which("bwrap") is not None
        and subprocess.run(
            [*_AS_BOOTED.split(), "true"], capture_output=True, check=False
        ).returncode
        == 0
    )


@dataclass
class Host:
    """This machine's user, with a home and a systemd of their own."""

    base: Path
    name: str = "host"
    manager: Child | None = None
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        programs = self.base / "bin"
        home, run = self.base / "home", self.base / "run"
        programs.mkdir(parents=True)
        home.mkdir()
        run.mkdir(mode=0o700)
        self.environ = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(home),
            "USER": os.environ.get("USER", "person"),
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(run),
            "XDG_CONFIG_DIRS": str(self.base / "none"),
            # Its images are made already.
            "XDG_CACHE_HOME": str(find_paths().cache.parent),
        }
        self.use(ROOT)

    def use(self, tree: Path) -> None:
        """Its programs are those of this tree from now on."""
        variables = {"PYTHONPATH": str(tree)}
        if sys.pycache_prefix and tree == ROOT:
            variables["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
        for name, module in _MODULES.items():
            path = self.base / "bin" / name
            path.write_text(_program(sys.executable, module, **variables))
            path.chmod(0o755)

    async def program(self, name: str, text: str) -> None:
        """Put a program into its ``PATH``."""
        path = trio.Path(self.base / "bin" / name)
        await path.write_text(text)
        await path.chmod(0o755)

    async def start(self) -> None:
        """The user's systemd, as after a login."""
        words = [*_AS_BOOTED.split(), _SYSTEMD, "--user", "--unit=basic.target"]
        with (self.base / "systemd.log").open("ab") as log:
            self.manager = spawn(
                words, env=self.environ, stdout=log.fileno(), stderr=log.fileno()
            )
        private = Path(self.environ["XDG_RUNTIME_DIR"]) / "systemd/private"

        async def there():
            return private.is_socket()

        await eventually(there, deadline=60)

    async def stop(self) -> None:
        """End it, and with it its services."""
        if self.manager is not None:
            await self.try_run("systemctl --user exit")
            with trio.move_on_after(90) as scope:
                await self.manager.wait()
            if scope.cancelled_caught:
                self.manager.kill()
        # systemd's own places that nobody may enter.
        for path in (self.base / "run").glob("systemd/inaccessible/*"):
            path.chmod(0o700)

    async def try_run(self, command: str, deadline: float = math.inf):
        """Run a shell command; returns its exit code and its output."""
        with trio.fail_after(deadline):
            done = await trio.run_process(
                [*_AS_BOOTED.split(), "sh", "-c", command],
                env=self.environ,
                cwd=self.environ["HOME"],
                stdin=b"",
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
        return done.returncode, done.stdout.decode()

    async def run(self, command: str, deadline: float = math.inf) -> str:
        """Run a shell command; fails with its output on a bad exit."""
        code, said = await self.try_run(command, deadline)
        assert code == 0, f"{self.name}: {command!r} ended with {code}: {said}"
        return said

    async def write(self, path: str, text: str) -> None:
        """Write a file of the page; ``~`` is the home."""
        place = Path(path.replace("~", self.environ["HOME"], 1))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def here(self, text: str) -> str:
        """A page's text with this user's directory in the place of the page's."""
        return text.replace("/run/user/1000", self.environ["XDG_RUNTIME_DIR"])

    async def prepare(self, lab: Lab, guest: Guest) -> None:
        """Write the script and the unit of the viewer's machine."""
        for block in blocks(DOCS / "migration.md"):
            name = block.text.splitlines()[0].removeprefix("# ")
            if name in {"~/viewer.sh", "~/.config/systemd/user/viewer.service"}:
                await self.write(name, self.here(block.text))
        script = (Path(self.environ["HOME"]) / "viewer.sh").read_text()
        vsock = re.search(r"--uds-path ([^\s\"]+)", script)[1]
        words = await lab.words_for_script(guest, Path(vsock))
        qemu = self.base / "qemu/qemu-system-x86_64"
        qemu.parent.mkdir()
        real = shutil.which("qemu-system-x86_64")
        qemu.write_text(_QEMU.format(python=sys.executable, words=words, qemu=real))
        qemu.chmod(0o755)
        path = f"{qemu.parent}:{self.environ['PATH']}"
        drop_in = "~/.config/systemd/user/viewer.service.d/lab.conf"
        await self.write(drop_in, _FIRST.format(path=path))
        await self.run("systemctl --user daemon-reload")

    def of_the_viewer(self, program: str) -> int:
        """The process of this program that the viewer's unit has started."""
        return _process(program, f"{self.environ['XDG_RUNTIME_DIR']}/viewer.sock")

    async def install(self) -> None:
        """Copy the units, with the full paths of the programs."""
        for path in (UNITS / "user").iterdir():
            text = path.read_text()
            text = re.sub(r"(?m)^ExecStart=(?=\w)", f"ExecStart={self.base}/bin/", text)
            await self.write(f"~/.config/systemd/user/{path.name}", text)
        await self.run("systemctl --user daemon-reload")


class Session:
    """A person's session of sway's."""

    name: str
    screen: dict[str, str]

    async def begin_session(self) -> None:
        """Have sway started by their systemd, now and at each boot."""
        await self.write("~/sway.conf", SWAY_CONFIG + _IMPORT)
        await self.write("~/.config/systemd/user/sway.service", _SWAY_UNIT)
        await self.run("systemctl --user daemon-reload")
        await self.run("systemctl --user enable --now sway")
        await self.session()

    async def session(self) -> None:
        """Wait until the person's desktop is there, and has told the user manager."""
        said = await until(
            self, "systemctl --user show-environment | grep -E '^(WAYLAND_DISP|SWAYS)'"
        )
        self.screen.update(line.split("=", 1) for line in said.splitlines())
        await until(self, "swaymsg -t get_version")

    async def picture(self) -> Image.Image:
        """What its compositor shows."""
        said = await self.run("grim -t ppm - | gzip -1 | base64 -w0")
        return Image.open(io.BytesIO(gzip.decompress(base64.b64decode(said))))


class NearViewer(Host, Session):
    """A viewer on the host's machine: another home and another systemd of this user.

    The link is a UNIX socket, as the page has it for this.
    """

    def __init__(self, base: Path) -> None:
        super().__init__(base, "viewer")
        self.screen = self.environ  # for all that runs in the session

    async def furnish(self) -> None:
        """Its session."""
        await self.begin_session()

    async def install(self) -> None:
        """Copy the units; that of the link listens where ``link.toml`` says."""
        await super().install()
        unit = "~/.config/systemd/user/vitrail-viewer-link.socket"
        text = (UNITS / "user/vitrail-viewer-link.socket").read_text()
        place = f"ListenStream={self.link}"
        text = re.sub("(?m)^ListenStream=.*$", place, text)
        await self.write(unit, text)
        await self.run("systemctl --user daemon-reload")

    @property
    def link(self) -> Path:
        """The link's socket."""
        return self.base / "link"


@dataclass
class Viewer(Session):
    """The emulated machine's person."""

    guest: Guest
    lab: Lab
    host: Host
    name: str = "viewer"
    screen: dict[str, str] = field(default_factory=dict)

    async def try_run(self, command: str, deadline: float = math.inf):
        """Run a shell command in the person's session; returns code and output."""
        env = {**PERSON, **self.screen}
        return await self.guest.try_run(command, "person", env, deadline)

    async def run(self, command: str, deadline: float = math.inf) -> str:
        """Run a shell command; fails with its output on a bad exit."""
        code, said = await self.try_run(command, deadline)
        assert code == 0, f"viewer: {command!r} ended with {code}: {said}"
        return said

    async def program(self, name: str, text: str) -> None:
        """Put a program into everybody's ``PATH``."""
        path = f"/usr/local/bin/{name}"
        await self.guest.write(path, text, user="root")
        await self.root(f"chmod 755 {path}")

    async def root(self, command: str) -> str:
        """Run a shell command as root."""
        return await self.guest.run(command, user="root")

    async def write(self, path: str, text: str) -> None:
        """Write a file of the page; ``~`` is the home."""
        await self.guest.write(path.replace("~", _HOME, 1), text, user="root")
        await self.root(f"chown -R person: {_HOME}")

    async def switch_on(self) -> None:
        """Start its unit, as ``migration.md`` says."""
        await self.host.prepare(self.lab, self.guest)
        text = (DOCS / "migration.md").read_text()
        (command,) = re.findall(r"`(systemctl --user enable --now viewer)`", text)
        await self.host.run(command)
        await self.lab.booted(self.guest, math.inf)

    async def furnish(self) -> None:
        """A person with a session of sway's, and the programs in the ``PATH``."""
        for name, module in _MODULES.items():
            variables = {"PYTHONPATH": "/srv", "PYTHONDONTWRITEBYTECODE": "1"}
            await self.program(name, _program("/usr/bin/python3", module, **variables))
        await self.root(f"useradd -m -d {_HOME} -u 2000 -s /bin/sh person")
        await self.root("loginctl enable-linger person")
        await until(self, f"test -S {_RUNTIME}/systemd/private")
        await self.begin_session()

    async def install(self) -> None:
        """Copy the units, with the full paths of the programs."""
        units = "~/.config/systemd/user"
        await self.run(
            f"mkdir -p {units}; cp /srv/broker/data/systemd/user/* {units}/; "
            f"sed -i 's|^ExecStart=|ExecStart=/usr/local/bin/|' {units}/vitrail-*; "
            "systemctl --user daemon-reload"
        )

    async def reboot(self, *, late: bool) -> None:
        """Reboot it as a person does; ``late``: its compositor comes after the broker."""
        if late:
            await self.run("touch ~/late")
        await self._again("(sleep 1; systemctl reboot) >/dev/null 2>&1 &")

    async def power_cut(self) -> None:
        """Kill its QEMU."""
        await self.root("sync")
        await self._again("")

    async def _again(self, command: str) -> None:
        """Wait until the unit has made it again, vsock and all."""
        boot = "cat /proc/sys/kernel/random/boot_id"
        before = await self.root(boot)
        both = [
            self.host.of_the_viewer(name) for name in ("qemu-system", "vhost-device")
        ]
        self.screen.clear()
        if command:
            await self.root(command)
        else:
            os.kill(both[0], signal.SIGKILL)
        shell, self.guest.shell = self.guest.shell, None
        await self.lab.booted(self.guest, math.inf)
        await trio.aclose_forcefully(shell)
        assert await self.root(boot) != before
        for pid in both:
            assert not Path(f"/proc/{pid}").exists(), "the unit starts both again"
        await self.session()


def _process(program: str, word: str) -> int:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text(errors="replace").split("\0")
        except OSError:
            continue  # it has ended, or is another user's
        if Path(words[0]).name.startswith(program) and word in " ".join(words):
            found.append(int(path.parent.name))
    (pid,) = found
    return pid


# A part takes at most two minutes on a quiet machine, and six where twenty programs of
# others share its processors.
_STAGE_SECONDS = 900


@asynccontextmanager
async def stage(name: str, say, machines):
    """One part of a long test, with a deadline; tells its time, or why it failed."""
    say(f"{name} …")
    began = trio.current_time()
    try:
        with trio.fail_after(_STAGE_SECONDS):
            yield
    except BaseException:
        say(f"{name}: FAILED after {trio.current_time() - began:.0f} s")
        with trio.CancelScope(shield=True):
            for machine in machines:
                await _explain(machine)
        raise
    say(f"{name}: {trio.current_time() - began:.0f} s")


_LOOKS = (
    "systemctl --user --no-pager list-units 'vitrail*' viewer.service sway.service",
    "cat ~/*.log ~/.local/state/vitrail/broker.log | tail -60",
    "brokerctl status; brokerctl audit | tail -20",
)


async def _explain(machine) -> None:
    if isinstance(machine, Viewer) and machine.guest.shell is not None:
        with trio.move_on_after(60):
            journal = "journalctl --no-pager -o short-monotonic -n 150"
            print(f"--- viewer's journal:\n{await machine.root(journal)}")
    for command in _LOOKS:
        with trio.move_on_after(60) as scope:
            code, said = await machine.try_run(command)
            print(f"--- {machine.name}: {command}: {code}\n{said}")
        if scope.cancelled_caught:
            print(f"--- {machine.name}: {command}: no answer within 60 s")


async def until(machine, command: str, deadline: float = math.inf) -> str:
    """Ask again until the command succeeds there; returns its output."""
    said = ""

    async def succeeds():
        nonlocal said
        code, said = await machine.try_run(command)
        if code:
            await trio.sleep(3)  # an emulated machine that is asked does nothing else
        return code == 0

    try:
        await eventually(succeeds, deadline=deadline)
    except BaseException:
        print(f"{machine.name}: never so: {command!r}; it said {said!r}")
        raise
    return said


@asynccontextmanager
async def logged_in(user: Host):
    """A user of this machine, with their systemd."""
    await user.start()
    try:
        yield user
    finally:
        with trio.CancelScope(shield=True):
            await user.try_run("brokerctl stop --broker", 120)
            await user.stop()
            print((user.base / "systemd.log").read_text()[-4000:])
            for pid in processes(user.base):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
