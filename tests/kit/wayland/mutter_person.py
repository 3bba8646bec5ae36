"""A headless mutter whose keyboard and pointer are the test's.

By org.gnome.Mutter.RemoteDesktop.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import trio
from jeepney import DBusAddress, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from broker.helpers.process.spawn import DEVNULL, Child, spawn
from tests.kit.eventually import eventually, ready
from tests.kit.listening import takes_connections
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.wayland.compositor import short_directory
from tests.kit.wayland.desktop_calls import UnansweredError, call_desktop
from tests.kit.wayland.input import LEFT

_NAME = "org.gnome.Mutter.RemoteDesktop"
FAR = 10_000
"""Pixels; no screen is as large."""


class Gnome:
    """``display`` is mutter's socket, ``bus`` the address of its session bus."""

    def __init__(
        self, child: Child, display: Path, environment: dict[str, str], bus: str
    ) -> None:
        """``child``: the process that mutter is below."""
        self.child = child
        self.display, self.environment, self.bus = display, environment, bus
        self.mouse: GnomePointer | None = None
        """The person's, where a test has one."""

    def screenshot(self, file: Path) -> None:
        """Have GNOME Shell write a picture of the screen, with the pointer."""
        self._shell("Screenshot", "Screenshot", "bbs", True, False, str(file))

    def evaluate(self, script: str) -> str:
        """Return what a script says inside GNOME Shell, as JSON."""
        where = DBusAddress("/org/gnome/Shell", "org.gnome.Shell", "org.gnome.Shell")
        good, said = call_desktop(self.bus, where, "Eval", "s", script)
        assert good, said
        return said

    def windows(self) -> list[dict[str, Any]]:
        """Return what GNOME Shell knows of each window: title, wm-class, app-id."""
        found = self._shell("Introspect", "GetWindows")[0]
        return [{k: v[1] for k, v in one.items()} for one in found.values()]

    def _shell(self, part: str, member: str, types: str = "", *args: Any) -> Any:
        name = f"org.gnome.Shell.{part}"
        where = DBusAddress(f"/org/gnome/Shell/{part}", name, name)
        return call_desktop(self.bus, where, member, types, *args)


class GnomeKeyboard:
    """As ``wayland_input.Keyboard``; mutter reckons the modifiers itself."""

    def __init__(self, bus: str) -> None:
        self._bus: DBusConnection = open_dbus_connection(bus)
        root = DBusAddress("/org/gnome/Mutter/RemoteDesktop", _NAME, _NAME)
        try:
            (path,) = self._call(root, "CreateSession")
        except UnansweredError:
            self._bus.close()
            raise
        self._session = DBusAddress(path, _NAME, f"{_NAME}.Session")
        self._call(self._session, "Start")

    @classmethod
    async def of(cls, bus: str) -> GnomeKeyboard:
        """The keyboard, once mutter has its name on the bus: after its socket."""

        def opened() -> GnomeKeyboard | None:
            try:
                return cls(bus)
            except UnansweredError:
                return None

        return await eventually(partial(trio.to_thread.run_sync, opened))

    def _call(self, where: DBusAddress, name: str, types: str = "", *args: Any) -> Any:
        message = new_method_call(where, name, types or None, args)
        reply = self._bus.send_and_get_reply(message, timeout=30)
        if reply.header.message_type is not MessageType.method_return:
            raise UnansweredError(str(reply.body))
        return reply.body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.close()

    def change(self, code: int, state: int) -> None:
        """Press (1) or release (0) a key by its evdev code."""
        self.notify("KeyboardKeycode", "ub", code, bool(state))

    def notify(self, what: str, types: str, *args: Any) -> None:
        """Do this with the session's devices, of which the keyboard is one."""
        self._call(self._session, f"Notify{what}", types, *args)

    def modifiers(self, held: int, layout: int = 0) -> None:
        """Nothing: the keys say it."""

    def press(self, code: int) -> None:
        """Press and release a key."""
        self.change(code, 1)
        self.change(code, 0)


class GnomePointer:
    """As ``wayland_input.Pointer``, in the session of a keyboard."""

    def __init__(self, keyboard: GnomeKeyboard) -> None:
        self._session = keyboard
        self._at: tuple[int, int] | None = None

    def _step(self, right: int, down: int) -> None:
        self._session.notify("PointerMotionRelative", "dd", float(right), float(down))

    def move(self, x: int, y: int) -> None:
        """Move to a point of the screen."""
        if self._at is None:
            # Its position is unknown; a corner stops it.
            self._step(-FAR, -FAR)
            self._at = (0, 0)
        self._step(x - self._at[0], y - self._at[1])
        self._at = (x, y)

    def button(self, pressed: bool, which: int = LEFT) -> None:
        """Press or release a button."""
        self._session.notify("PointerButton", "ib", which, pressed)

    def scroll(self, steps: int) -> None:
        """Turn the wheel; down is above 0."""
        self._session.notify("PointerAxisDiscrete", "ui", 0, steps)

    def glide(self, pixels: int) -> None:
        """Scroll with two fingers of a touchpad, and lift them; down is above 0."""
        fingers, lifted = 4, 1
        for part in (pixels // 2, pixels - pixels // 2):
            self._session.notify("PointerAxis", "ddu", 0.0, float(part), fingers)
        self._session.notify("PointerAxis", "ddu", 0.0, 0.0, fingers | lifted)


def mutter_environment(runtime: Path) -> dict[str, str]:
    """Return the environment of a headless mutter and its session bus."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(runtime),
        "LANG": "C.UTF-8",
        "SHELL": "/bin/sh",
        "XDG_RUNTIME_DIR": str(runtime),
        "LIBGL_ALWAYS_SOFTWARE": "1",
    }


_SCREEN = ("--headless", "--wayland", "--no-x11", "--virtual-monitor", "1280x800")
SHELL = ("gnome-shell", "--unsafe-mode", *_SCREEN)
"""GNOME Shell, whose unsafe mode lets the test take pictures of its screen."""


@asynccontextmanager
async def gnome_shell(settings: str = ""):
    """GNOME Shell with a separate session bus.

    ``settings`` are its user's, in the words of GLib's key file.  Its notifications ask the bus for the process number of each sender, so it has no
    process namespace; what the bus has started ends with the bus.
    """
    ordinary_user()
    with short_directory() as directory:
        runtime = directory / "run"
        runtime.mkdir(mode=0o700)
        bus = f"unix:path={runtime}/bus"
        environment = mutter_environment(runtime) | {
            "DBUS_SESSION_BUS_ADDRESS": bus,
            # It does not begin without a system bus, and uses none of its services.
            "DBUS_SYSTEM_BUS_ADDRESS": bus,
            "GSETTINGS_BACKEND": "keyfile",
        }
        folder = runtime / ".config/glib-2.0/settings"
        folder.mkdir(parents=True)
        (folder / "keyfile").write_text(settings)
        daemon = spawn(
            ["dbus-daemon", "--session", "--nofork", f"--address={bus}"],
            env=environment,
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        child: Child | None = None
        display = runtime / "gnome"
        try:
            await ready(daemon, lambda: takes_connections(runtime / "bus"))
            child = spawn(
                [*SHELL, "--wayland-display=gnome"],
                env=environment,
                stdout=DEVNULL,
                stderr=DEVNULL,
            )
            await ready(child, lambda: takes_connections(display))
            environment["WAYLAND_DISPLAY"] = str(display)
            yield Gnome(child, display, environment, bus)
        finally:
            with trio.CancelScope(shield=True):
                if child is not None:
                    await child.stop()
                await daemon.stop()


@asynccontextmanager
async def gnome():
    """A mutter with a separate session bus."""
    ordinary_user()
    with short_directory() as directory:
        runtime = directory / "run"
        runtime.mkdir(mode=0o700)
        environment = mutter_environment(runtime)
        address = runtime / "address"
        run = f'echo "$DBUS_SESSION_BUS_ADDRESS" > {address}; exec "$@"'
        child = spawn(
            [
                # dbus-run-session leaves its children when it is ended.
                "bwrap", "--dev-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--die-with-parent", "--",
                "dbus-run-session", "--", "sh", "-c", run, "sh",
                "mutter", *_SCREEN, "--wayland-display=gnome",
            ],
            env=environment,
            stdout=DEVNULL,
            stderr=DEVNULL,
        )  # fmt: skip
        display = runtime / "gnome"
        try:
            await ready(child, lambda: takes_connections(display))
            environment["WAYLAND_DISPLAY"] = str(display)
            bus = address.read_text().strip()
            yield Gnome(child, display, environment, bus)
        finally:
            with trio.CancelScope(shield=True):
                await child.stop()
