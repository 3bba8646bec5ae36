"""Two machines with systemd, at which a test types what a page says.

The viewer is an emulated machine that systemd boots, with a disk of its own and a session
of sway's.  The host is this machine's ordinary user with a systemd of their own, which
takes the place of the user manager: a host starts machines, and emulated in an emulated
one they would take minutes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from broker.core.paths import find_paths
from broker.helpers.process.spawn import Child, spawn
from tests.kit.eventually import eventually
from tests.kit.link.three_machines import ROOT, Guest, Lab
from tests.kit.vm.brokers import PATIENCE, SWAY, SWAY_CONFIG

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
_LATE = "until systemctl --user -q is-active vitrail-viewer; do sleep 0.5; done"
_SWAY_UNIT = f"""\
[Service]
{"".join(f"Environment={key}={value}{chr(10)}" for key, value in SWAY.items())}\
Environment=SWAYSOCK=%t/sway.sock
ExecStartPre=/bin/sh -c 'test ! -e %h/late || {_LATE}'
TimeoutStartSec={PATIENCE}
ExecStart=/usr/bin/sway -c %h/sway.conf
[Install]
WantedBy=default.target
"""
_IMPORT = "exec systemctl --user import-environment WAYLAND_DISPLAY SWAYSOCK\n"


def _program(python: str, module: str, **variables: str) -> str:
    words = " ".join(f"{name}={shlex.quote(text)}" for name, text in variables.items())
    return _PROGRAM.format(variables=words, python=python, module=module)


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

    async def try_run(self, command: str, deadline: float = PATIENCE):
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

    async def run(self, command: str, deadline: float = PATIENCE) -> str:
        """Run a shell command; fails with its output on a bad exit."""
        code, said = await self.try_run(command, deadline)
        assert code == 0, f"host: {command!r} ended with {code}: {said}"
        return said

    async def write(self, path: str, text: str) -> None:
        """Write a file of the page; ``~`` is the home."""
        place = Path(path.replace("~", self.environ["HOME"], 1))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    async def install(self) -> None:
        """Copy the units, with the full paths of the programs."""
        for path in (UNITS / "user").iterdir():
            text = path.read_text()
            text = re.sub(r"(?m)^ExecStart=(?=\w)", f"ExecStart={self.base}/bin/", text)
            await self.write(f"~/.config/systemd/user/{path.name}", text)
        await self.run("systemctl --user daemon-reload")


@dataclass
class Viewer:
    """The emulated machine's person."""

    guest: Guest
    lab: Lab
    name: str = "viewer"
    _screen: dict[str, str] = field(default_factory=dict)

    async def try_run(self, command: str, deadline: float = PATIENCE):
        """Run a shell command in the person's session; returns code and output."""
        env = {**PERSON, **self._screen}
        return await self.guest.try_run(command, "person", env, deadline)

    async def run(self, command: str, deadline: float = PATIENCE) -> str:
        """Run a shell command; fails with its output on a bad exit."""
        code, said = await self.try_run(command, deadline)
        assert code == 0, f"viewer: {command!r} ended with {code}: {said}"
        return said

    async def root(self, command: str) -> str:
        """Run a shell command as root."""
        return await self.guest.run(command, user="root")

    async def write(self, path: str, text: str) -> None:
        """Write a file of the page; ``~`` is the home."""
        await self.guest.write(path.replace("~", _HOME, 1), text, user="root")
        await self.root(f"chown -R person: {_HOME}")

    async def furnish(self) -> None:
        """A person with a session of sway's, and the programs in the ``PATH``."""
        for name, module in _MODULES.items():
            variables = {"PYTHONPATH": "/srv", "PYTHONDONTWRITEBYTECODE": "1"}
            text = _program("/usr/bin/python3", module, **variables)
            await self.guest.write(f"/usr/local/bin/{name}", text, user="root")
        await self.root(
            "chmod 755 /usr/local/bin/*; "
            f"useradd -m -d {_HOME} -u 2000 -s /bin/sh person"
        )
        await self.write("~/sway.conf", SWAY_CONFIG + _IMPORT)
        await self.write("~/.config/systemd/user/sway.service", _SWAY_UNIT)
        await self.root("loginctl enable-linger person")
        await until(self, f"test -S {_RUNTIME}/systemd/private")
        await self.run("systemctl --user enable --now sway")
        await self.session()

    async def session(self) -> None:
        """Wait until the person's desktop is there, and has told the user manager."""
        said = await until(
            self, "systemctl --user show-environment | grep -E '^(WAYLAND_DISP|SWAYS)'"
        )
        self._screen = dict(line.split("=", 1) for line in said.splitlines())
        await until(self, "swaymsg -t get_version")

    async def install(self) -> None:
        """Copy the units, with the full paths of the programs."""
        units = "~/.config/systemd/user"
        await self.run(
            f"mkdir -p {units}; cp /srv/broker/data/systemd/user/* {units}/; "
            f"sed -i 's|^ExecStart=|ExecStart=/usr/local/bin/|' {units}/vitrail-*; "
            "systemctl --user daemon-reload"
        )

    async def reboot(self) -> None:
        """Reboot it as a person does, with a compositor that comes late."""
        await self.run("touch ~/late")
        before = await self.root("cat /proc/sys/kernel/random/boot_id")
        self._screen = {}
        await self.root("(sleep 1; systemctl reboot) >/dev/null 2>&1 &")
        await self.lab.rebooted(self.guest)
        assert await self.root("cat /proc/sys/kernel/random/boot_id") != before


async def until(machine, command: str, deadline: float = PATIENCE) -> str:
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
async def the_host(base: Path):
    """The host's user, logged in."""
    host = Host(base)
    await host.start()
    try:
        yield host
    finally:
        with trio.CancelScope(shield=True):
            print((await host.try_run("brokerctl status; brokerctl audit | tail"))[1])
            await host.try_run("brokerctl stop --broker")
            await host.stop()
            print((host.base / "systemd.log").read_text()[-4000:])
