"""Plasma without a screen: KWin, plasmashell, and a user's keyboard and pointer.

Input by org_kde_kwin_fake_input, pictures by org.kde.KWin.ScreenShot2.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from jeepney import DBusAddress, MessageType, new_method_call
from jeepney.io.blocking import open_dbus_connection
from PIL import Image

from broker.helpers.process.spawn import DEVNULL, Child, spawn
from tests.kit.eventually import eventually, ready
from tests.kit.listening import takes_connections
from tests.kit.vm.tinyguest import ordinary_user
from tests.kit.wayland.compositor import short_directory
from tests.kit.wayland.desktop_calls import UnansweredError, call_desktop
from tests.kit.wayland.input import LEFT
from tests.kit.wayland.touch import ALLOWED, FakeInput

_BUTTON, _AXIS, _MOTION_ABSOLUTE, _KEY = 2, 3, 9, 10
"""Requests of the fake input, by their place in the protocol."""
_RGBA_OF_QT = {4: "BGRX", 5: "BGRA", 6: "BGRA"}
"""Formats of QImage that KWin takes pictures in, as Pillow names them."""
_BUS = DBusAddress(
    "/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus"
)


class Plasma:
    """``display`` is KWin's socket, ``bus`` the address of its session bus."""

    def __init__(
        self, child: Child, display: Path, environment: dict[str, str], bus: str
    ) -> None:
        """``child``: KWin's process."""
        self.child = child
        self.display, self.environment, self.bus = display, environment, bus

    def picture(self, *, pointer: bool = False) -> Image.Image:
        """Return what the screen shows, with the ``pointer`` or without it."""
        where = DBusAddress(
            "/org/kde/KWin/ScreenShot2", "org.kde.KWin", "org.kde.KWin.ScreenShot2"
        )
        with open_dbus_connection(self.bus, enable_fds=True) as bus:
            read, write = os.pipe()
            options = {"include-cursor": ("b", pointer)}
            with open(read, "rb") as pixels:
                with open(write, "wb") as end:
                    message = new_method_call(
                        where, "CaptureWorkspace", "a{sv}h", (options, end)
                    )
                    reply = bus.send_and_get_reply(message, timeout=60)
                if reply.header.message_type is not MessageType.method_return:
                    raise UnansweredError(str(reply.body))
                found = {k: v[1] for k, v in reply.body[0].items()}
                data = pixels.read()
        size, stride = (found["width"], found["height"]), found["stride"]
        form = _RGBA_OF_QT[found["format"]]
        mode = "RGBA" if form == "BGRA" else "RGB"
        return Image.frombytes(mode, size, data, "raw", form, stride).convert("RGB")

    def screenshot(self, file: Path) -> None:
        """Write a picture of the screen."""
        self.picture().save(file)

    def windows(self) -> list[dict[str, Any]]:
        """Return what KWin knows of each window: caption, desktopFile, icon, places."""
        runner = "/WindowsRunner", "org.kde.krunner1", "Match"
        icons = {m[0].partition("_")[2]: m[2] for m in self.call(*runner, "s", "")[0]}
        return [self._about(uuid) | {"icon": icon} for uuid, icon in icons.items()]

    def _about(self, uuid: str) -> dict[str, Any]:
        (info,) = self.call("/KWin", "org.kde.KWin", "getWindowInfo", "s", uuid)
        return {k: v[1] for k, v in info.items()}

    def shortcut(self, name: str) -> None:
        """Do what the user's key combination of that name does, as "Window Maximize"."""
        interface = "org.kde.kglobalaccel.Component"
        where = DBusAddress("/component/kwin", "org.kde.kglobalaccel", interface)
        self._call(where, "invokeShortcut", "s", name)

    def owned(self, name: str) -> bool:
        """Return whether a program on the bus has this name."""
        return self._call(_BUS, "NameHasOwner", "s", name)[0]

    def activates_here(self) -> None:
        """Have what the bus starts shown on this screen."""
        self._call(_BUS, "UpdateActivationEnvironment", "a{ss}", self.environment)

    def call(
        self, path: str, interface: str, member: str, types: str = "", *args: Any
    ) -> Any:
        """Call KWin on the session bus."""
        return self._call(
            DBusAddress(path, "org.kde.KWin", interface), member, types, *args
        )

    def _call(self, where: DBusAddress, member: str, types: str, *args: Any) -> Any:
        return call_desktop(self.bus, where, member, types, *args)


class PlasmaHands(FakeInput):
    """A keyboard and a pointer, as ``wayland_input`` has them; KWin reckons modifiers."""

    def _do(self, opcode: int, *numbers: int) -> None:
        self._say(opcode, struct.pack(f"={len(numbers)}i", *numbers))
        self.client.roundtrip()

    def change(self, code: int, state: int) -> None:
        """Press (1) or release (0) a key by its evdev code."""
        self._do(_KEY, code, state)

    def modifiers(self, held: int, layout: int = 0) -> None:
        """Nothing: the keys say it."""

    def press(self, code: int) -> None:
        """Press and release a key."""
        self.change(code, 1)
        self.change(code, 0)

    def move(self, x: int, y: int) -> None:
        """Move to a point of the screen."""
        self._do(_MOTION_ABSOLUTE, x << 8, y << 8)

    def button(self, pressed: bool, which: int = LEFT) -> None:
        """Press or release a button."""
        self._do(_BUTTON, which, int(pressed))

    def scroll(self, steps: int) -> None:
        """Turn the wheel; down is above 0."""
        self._do(_AXIS, 0, steps * 15 << 8)

    def click(self, x: int, y: int, which: int = LEFT) -> None:
        """Move there, press and release."""
        self.move(x, y)
        self.button(True, which)
        self.button(False, which)


def _kwin(directory: Path, input_method: str) -> list[str]:
    # Its file has capabilities that an ordinary user may not always gain.
    program = directory / "kwin_wayland"
    shutil.copyfile(shutil.which("kwin_wayland") or "", program)
    program.chmod(0o700)
    return [
        str(program), "--virtual", "--socket", "plasma", "--no-lockscreen",
        "--width", "1280", "--height", "800",
        *(("--inputmethod", input_method) if input_method else ()),
    ]  # fmt: skip


def _environment(runtime: Path, bus: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(runtime),
        "LANG": "C.UTF-8",
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CURRENT_DESKTOP": "KDE",
        "KDE_FULL_SESSION": "true",
        "KDE_SESSION_VERSION": "5",
        "XDG_MENU_PREFIX": "plasma-",
        "DBUS_SESSION_BUS_ADDRESS": bus,
        # Nothing of the machine's session is to be found.
        "DBUS_SYSTEM_BUS_ADDRESS": bus,
        # With it KWin draws with the CPU, and takes pictures.
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "KWIN_COMPOSE": "O2",
        "KWIN_SCREENSHOT_NO_PERMISSION_CHECKS": "1",
        **ALLOWED,
    }


def _end_what_was_started(bus: str) -> None:
    """End what the bus and KDE's settings have started; not all of it ends with them."""
    for entry in Path("/proc").iterdir():
        # Another user's process, or one that has ended.
        with suppress(OSError):
            if (
                entry.name.isdigit()
                and bus.encode() in (entry / "environ").read_bytes()
            ):
                os.kill(int(entry.name), signal.SIGKILL)


@asynccontextmanager
async def plasma(*, shell: bool = True, input_method: str = "", layout: str = "us"):
    """KWin with a separate session bus; with ``shell`` also panel and notifications.

    ``input_method`` is a program that KWin starts, ``layout`` the keyboard's.
    """
    ordinary_user()
    with short_directory() as directory:
        runtime = directory / "run"
        runtime.mkdir(mode=0o700)
        bus = f"unix:path={runtime}/bus"
        environment = _environment(runtime, bus) | {"XKB_DEFAULT_LAYOUT": layout}
        children: list[Child] = []

        def start(*argv: str) -> Child:
            child = spawn(argv, env=environment, stdout=DEVNULL, stderr=DEVNULL)
            children.append(child)
            return child

        try:
            daemon = start("dbus-daemon", "--session", "--nofork", f"--address={bus}")
            await ready(daemon, lambda: takes_connections(runtime / "bus"))
            child = start(
                *await trio.to_thread.run_sync(_kwin, directory, input_method)
            )
            display = runtime / "plasma"
            await ready(child, lambda: takes_connections(display))
            environment |= {
                "WAYLAND_DISPLAY": str(display),
                "QT_QPA_PLATFORM": "wayland",
            }
            made = Plasma(child, display, environment, bus)
            await eventually(lambda: made.owned("org.kde.KWin"))
            made.activates_here()
            if shell:
                start("kded5")
                start("plasmashell")
                await eventually(lambda: made.owned("org.freedesktop.Notifications"))
            yield made
        finally:
            with trio.CancelScope(shield=True):
                for child in reversed(children):
                    await child.stop()
                _end_what_was_started(bus)
