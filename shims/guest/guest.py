"""The guest: its parts, the environment of programs, and power off."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from typing import Any, Dict, Optional, Tuple

from shims.guest.account import PATH, Account, remove
from shims.guest.agent import Agent
from shims.guest.called import called
from shims.guest.clock import GuestClock
from shims.guest.display import Display
from shims.guest.folders import Folders
from shims.guest.host_files import host_environment, with_locales
from shims.guest.host_keys import make_host_keys
from shims.guest.loop import Loop, log
from shims.guest.own_process import ForkedTool, fork_tool, is_forked, load_tool
from shims.guest.pid1 import Machine
from shims.guest.port_streams import start_port_streams
from shims.guest.printing import PrinterSocket
from shims.guest.programs import Programs
from shims.guest.protocol import SHORT, TEXT, VERSION
from shims.guest.session_bus import SessionBus
from shims.guest.settings import Settings
from shims.guest.ssh_keys import KeysSocket
from shims.guest.streams import StreamCarrier
from shims.guest.tools import (
    BUS_SERVICES,
    CALL_COMMANDS,
    CALL_START,
    FILES_COMMANDS,
    QREXEC_CLIENT,
    SYSTEM_SERVICES,
    TOOL_START,
    call_tool,
    compile_aside,
    files_tool,
    link_for_qubes,
    write_file,
)
from shims.guest.usb import start_root_programs
from shims.guest.x_server import XServer

GRACE_SECONDS = 2.0


class Guest:
    """The guest: its parts, and what happens between them."""

    def __init__(self, settings: Settings, machine: Optional[Machine]) -> None:
        self.settings = settings
        self.machine = machine
        self.leaving = False
        self._hops: Dict[str, Tuple[bool, str]] = {}
        self._waypipe = ""
        self._waypipe_known = False
        self._compiling = False
        self._greeted = False
        self._sound_config = ""
        self._sound_server = ""
        self._tools = ""
        self.loop = Loop()
        self.account = Account(network_rights=settings.router)
        os.makedirs(settings.runtime, mode=0o755, exist_ok=True)
        self.session_dir = self._make_session_dir()
        self._tools = self._make_tools()
        self.agent = Agent(self, settings.agent)
        carrier = StreamCarrier(
            self, "display", os.path.join(settings.runtime, "display"), settings.display
        )
        sound = StreamCarrier(
            self, "audio", self._sound_path(), settings.audio, theirs=True
        )
        self._carriers = (carrier, sound)
        self.display = Display(self, carrier)
        self.x11 = XServer(self)
        self.session_bus = SessionBus(self)
        self.ssh_keys = KeysSocket(self)
        self.printer = PrinterSocket(self)
        self.programs = Programs(self)
        self.folders = Folders(self)
        self.clock = GuestClock()

    def start(self) -> None:
        """Start everything that needs neither the broker nor an identity."""
        if self.settings.batch:
            # All programs have it from here.  A process that is woken waits until the other one
            # has no more to do: a change of process costs as much as 50 KiB of a stream
            # where instructions are emulated.
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        if self.settings.port:
            start_port_streams(self)
        self.session_bus.start()
        if self._tools:
            self.ssh_keys.start()
            self.printer.start()
        self._ask_version()
        if shutil.which("waypipe", path=self.base_environment()["PATH"]):
            self.display.start()
            self.x11.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.loop.later(0, self.power_off))

    def begin_session(self) -> None:
        """Connect to the broker and to the network; the machine has its identity.

        Also starts the programs for devices, as root, and draws the host's ssh keys.
        """
        self.agent.lost_at = time.monotonic()
        self.agent.open()
        if self.machine is not None:
            self.machine.network(self)
        if self.machine is not None:
            start_root_programs(self)
            make_host_keys(self)
        if self.machine is not None and self.settings.disposable:
            self.loop.later(1.0, self._check_orphan)

    @property
    def settled(self) -> bool:
        """Return whether the work of the start is done: each copy would repeat it."""
        return self._waypipe_known and not self._compiling

    # -- what the parts report

    def agent_connected(self) -> None:
        """Say hello, then everything that was waiting."""
        self._greeted = False
        if self._waypipe_known:
            self._greet()

    def program_ended(self) -> None:
        """Go on leaving when the last program has ended."""
        if self.leaving and not self.programs.running():
            self._finish()

    def hop(self, name: str, detail: str = "", *, ok: bool) -> None:
        """Report a step on the way to a window; the newest of a name is kept."""
        if self._hops.get(name) == (ok, detail):
            return
        self._hops[name] = (ok, detail)
        if not ok:
            log(f"{name}: {detail}")
        if self._greeted:
            self._send_hop(name)

    def forget_hops(self) -> None:
        """Forget what a parent's own program came to; waypipe's start holds."""
        self._hops = {k: v for k, v in self._hops.items() if k == "waypipe"}

    def obey(self, message: Dict[str, Any]) -> None:
        """Carry out a message of the broker: run, signal, mount, …."""
        kind = message["type"]
        if kind == "run":
            self.programs.run(message)
        elif kind == "signal":
            self.programs.signal(message["program"], message["number"])
        elif kind == "input":
            self.programs.feed(message["program"], message["data"], end=message["end"])
        elif kind == "more":
            self.programs.raise_output_limit(message["program"], message["count"])
        elif kind == "resize":
            self.programs.resize(
                message["program"], message["rows"], message["columns"]
            )
        elif kind == "mount":
            self.folders.mount(message)
        elif kind == "unmount":
            self.folders.unmount(message["place"], force=message["force"])
        elif kind == "poweroff":
            self.power_off()
        elif kind == "ping":
            self.agent.pinged(message["serving"])
            self.display.counted(message["displays"])
            # The clock of a container is the host's, and a service's machine has its own
            # source of time.
            if self.machine is not None:
                self.clock.follow(message["time"])

    def cut_all(self) -> None:
        """End every connection that is carried to the broker."""
        for carrier in self._carriers:
            carrier.cut_all()

    # -- environment of programs

    def base_environment(self) -> Dict[str, str]:
        """Return the variables of every program of the guest's user."""
        env = {
            "PATH": f"{self._tools}:{PATH}" if self._tools else PATH,
            "HOME": self.account.home,
            "USER": self.account.name,
            "LOGNAME": self.account.name,
            "SHELL": self.account.shell or "/bin/sh",
            "LANG": "C.UTF-8",
            **host_environment(),
            "XDG_RUNTIME_DIR": self.session_dir,
            "PULSE_CLIENTCONFIG": self._sound_config,
            # For clients that are not libpulse and read no configuration.
            "PULSE_SERVER": self._sound_server,
            **self.session_bus.environment(),
        }
        if self.machine is None:
            # A service or a container has another environment.
            env = {
                **env,
                **{k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"},
            }
        if self._tools:
            if self._tools not in env["PATH"].split(":"):
                env["PATH"] = f"{self._tools}:{env['PATH']}"
            env["BROWSER"] = os.path.join(self._tools, "xdg-open")
        return env

    def environment(self, message: Dict[str, Any]) -> Dict[str, str]:
        """Return the variables of a program that the broker asks for."""
        env = self.base_environment()
        if message["display"]:
            env.update(
                WAYLAND_DISPLAY=Display.NAME,
                XDG_SESSION_TYPE="wayland",
                GDK_BACKEND="wayland",
                QT_QPA_PLATFORM="wayland",
                SDL_VIDEODRIVER="wayland",
                MOZ_ENABLE_WAYLAND="1",
            )
            env.update(self.x11.environment())
        env = with_locales(env, message["env"])
        self.ssh_keys.settle(env)
        self.printer.settle(env)
        return env

    def forks(self, message: Dict[str, Any]) -> bool:
        """Return whether a program is our tool that needs no start of Python."""
        return bool(self._tools) and is_forked(message["argv"], terminal=message["tty"])

    def fork_tool(self, message: Dict[str, Any], streams: Tuple[int, int, int]) -> int:
        """Fork a program of ours; return its pid.  Raises OSError."""
        user, _ = called(message["argv"])
        account = Account(user) if user else self.account
        env = self.environment(message)
        if user:
            env.update(HOME=account.home, USER=user, LOGNAME=user, SHELL=account.shell)
        return fork_tool(
            ForkedTool(account, self.settings.runtime, message["argv"], env, streams)
        )

    # -- the end

    def power_off(self) -> None:
        """End every program, then switch off (PID 1) or end this process."""
        if self.leaving:
            return
        self.leaving = True
        if not self.programs.running():
            self._finish()
            return
        self.programs.signal_all(signal.SIGTERM)
        self.loop.later(GRACE_SECONDS, lambda: self.programs.signal_all(signal.SIGKILL))
        self.loop.later(GRACE_SECONDS + 1.0, self._finish)

    def _finish(self) -> None:
        self.x11.stop()
        self.session_bus.stop()
        self.printer.stop()
        self.display.stop()
        # One more round, so that the last message leaves.
        self.loop.later(0.05, self.loop.stop)

    def _check_orphan(self) -> None:
        """Switch off a machine whose broker is away while nothing runs."""
        away = 0.0 if self.agent.connected else time.monotonic() - self.agent.lost_at
        if away >= self.settings.orphan and not self.programs.running():
            log(f"no broker for {away:.0f} s and no running programs: powering off")
            self.power_off()
            return
        # Not each second: an emulated processor that wakes for nothing costs the host.
        self.loop.later(max(1.0, self.settings.orphan - away), self._check_orphan)

    # -- small parts

    def _make_session_dir(self) -> str:
        """Create the directory of the session's sockets; return its path."""
        if os.geteuid() != 0 or self.machine is None:
            path = os.path.join(self.settings.runtime, "session")
        else:
            path = f"/run/user/{self.account.uid}"
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chown(path, self.account.uid, self.account.gid)
        return path

    def _make_tools(self) -> str:
        """Make the commands for files and links; returns their directory.

        Under the names that programs know (xdg-open, $BROWSER), before those of
        the system: addresses and files are opened by a rule, elsewhere.
        """
        folder = os.path.join(self.settings.runtime, "bin")
        try:
            source = files_tool()
            os.makedirs(folder, mode=0o755, exist_ok=True)
            tool = os.path.join(self.settings.runtime, "vitrail_files.py")
            write_file(tool, source, 0o644)
            caller = os.path.join(self.settings.runtime, "vitrail_call.py")
            write_file(caller, call_tool(), 0o644)
            self._keep_secret()
            # As a module, so that its bytecode is used; without the modules of others.
            for name in FILES_COMMANDS:
                start = CALL_START if name in CALL_COMMANDS else TOOL_START
                start = start.format(directory=self.settings.runtime)
                verb = '"$@"' if name == "vitrail-files" else f'{name} "$@"'
                script = f"#!/bin/sh\nexec python3 -I -S -c '{start}' {verb}\n"
                write_file(os.path.join(folder, name), script.encode(), 0o755)
            self._offer_services(folder)
            modules = ("vitrail_files", "vitrail_call")
            compiler = compile_aside(self.settings.runtime, *modules)
            self._compiling = True
            self.loop.child_number(compiler, self._compiled)
        except (OSError, ValueError) as error:
            log(f"cannot provide the commands for files and links: {error}")
            return ""
        if self.machine is not None:
            try:
                link_for_qubes(os.path.join(folder, QREXEC_CLIENT))
            except OSError as error:  # a read-only root; it is in PATH
                log(f"cannot create {error.filename}: {error.strerror}")
        return folder

    def _compiled(self, code: int) -> None:
        self._compiling = False
        if code == 0:
            load_tool(self.settings.runtime)

    def _offer_services(self, folder: str) -> None:
        """Write the files by which the session bus starts our portal.

        In the first place where dbus-daemon(1) looks for services, unless the guest
        has a separate program for the name: a portal has other interfaces, too, and
        its desktop may show its notifications.
        """
        services = os.path.join(self.session_dir, "dbus-1", "services")
        for name, verb in BUS_SERVICES.items():
            if os.path.exists(f"{SYSTEM_SERVICES}/{name}.service"):
                continue
            text = (
                f"[D-BUS Service]\nName={name}\n"
                f"Exec=/usr/bin/env PATH={folder}:{PATH} vitrail-files {verb}\n"
            )
            path = os.path.join(services, f"{name}.service")
            with self.account.rights():
                os.makedirs(services, mode=0o755, exist_ok=True)
                write_file(path, text.encode(), 0o644)

    def _keep_secret(self) -> None:
        """Write the launch's secret to a file for our other programs.

        Readable for all of the guest, which is one party to the broker: the
        secret keeps out programs of other users on the host.
        """
        path = os.path.join(self.settings.runtime, "launch-secret")
        if self.settings.secret:
            write_file(path, self.settings.secret.hex().encode(), 0o444)
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _sound_path(self) -> str:
        """Make the place where libpulse looks; returns the socket's path.

        The server is on another machine: a client that believes otherwise
        offers it shared memory, which nothing carries.
        """
        path = os.path.join(self.session_dir, "pulse")
        with self.account.rights():
            if os.path.islink(path) or not os.path.isdir(path):
                remove(path)
                os.mkdir(path, mode=0o700)
        socket_path = os.path.join(path, "native")
        self._sound_config = os.path.join(self.settings.runtime, "pulse.conf")
        self._sound_server = f"unix:{socket_path}"
        with open(self._sound_config, "w", encoding="utf-8") as file:
            file.write(
                f"default-server = unix:{socket_path}\n"
                "autospawn = no\nenable-shm = no\nenable-memfd = no\n"
            )
        return socket_path

    def _ask_version(self) -> None:
        """Run ``waypipe --version``; greet the broker after that."""
        path = shutil.which("waypipe", path=self.base_environment()["PATH"])
        if path is None:
            self.hop("waypipe", "waypipe is not installed in the guest", ok=False)
            self._version_known("")
            return
        read, write = os.pipe()
        process = subprocess.Popen(
            [path, "--version"], stdin=subprocess.DEVNULL, stdout=write, stderr=write
        )
        os.close(write)
        os.set_blocking(read, False)

        def ended(_code: int) -> None:
            try:
                said = os.read(read, 4096).decode("utf-8", "replace")
            except BlockingIOError:
                said = ""
            os.close(read)
            first = said.split("\n")[0].split()
            self._version_known(first[1] if len(first) > 1 else "unknown")

        self.loop.child(process, ended)

    def _version_known(self, version: str) -> None:
        self._waypipe = version[:SHORT]
        self._waypipe_known = True
        if self.agent.connected and not self._greeted:
            self._greet()

    def _greet(self) -> None:
        """Send the broker our versions and the programs that run."""
        self._greeted = True
        self.agent.send(
            "hello",
            version=VERSION,
            waypipe=self._waypipe,
            kernel=os.uname().release[:SHORT],
            programs=self.programs.running(),
        )
        self.agent.expect()
        for name in list(self._hops):
            self._send_hop(name)
        self.programs.push_all()

    def _send_hop(self, name: str) -> None:
        ok, detail = self._hops[name]
        self.agent.send("hop", name=name, ok=ok, detail=detail[:TEXT])
