"""Screens of the desktop by its own portal, and its part for wlroots: the user chooses."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from contextlib import asynccontextmanager, contextmanager

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.cameras import ROOT
from tests.kit.desktop_portal import desktop_portal

CONFIG = """\
[screencast]
max_fps=30
chooser_type=simple
chooser_cmd=cat {choice}
"""


@asynccontextmanager
async def screen_portal(screen, folder):
    """Run it on a desktop that has a bus and PipeWire.

    Yields the file that is the user's choice in the dialog: the name of an output;
    nothing in it: dismissed.
    """
    choice, config = folder / "choice", folder / "xdpw"
    choice.write_text("HEADLESS-1\n")
    config.write_text(CONFIG.format(choice=choice))
    env = {**screen.comp.environment, **screen.env}
    words = ("-c", str(config))
    with _with_dmabuf(screen.comp.display, folder / "wayland-t") as display:
        more = {"WAYLAND_DISPLAY": str(display)}
        async with desktop_portal(env, "wlr", "sway", words, more):
            yield choice


# -- sway without a GPU ---------------------------------------------------------------
#
# It names no format of DMABUFs for its frames, and the portal's part for wlroots (0.7)
# takes none without; it then uses shared memory, as it has no GPU either.

_BUFFER, _LINUX_DMABUF = 0, 5
_XR24 = 0x34325258


@contextmanager
def _with_dmabuf(display, place):
    """Pass connections to a compositor through, and name such a format."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        accepting = threading.Thread(target=_accept, args=(server, display))
        accepting.start()
        try:
            yield place
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(server, display):
    joined = []
    while True:
        try:
            near, _ = server.accept()
        except OSError:
            break
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(display))
        for ends in ((near, far, _same), (far, near, _Named())):
            joined.append(threading.Thread(target=_pass, args=ends))
            joined[-1].start()
    for thread in joined:
        thread.join()


def _pass(source, sink, change):
    with source:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(source, 1 << 16, 28)
                if not data:
                    break
                socket.send_fds(sink, [change(data)], fds)
            except OSError:
                break
            for fd in fds:
                os.close(fd)
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def _same(data):
    return data


class _Named:
    """What the compositor says, with the event ``linux_dmabuf`` after each ``buffer``."""

    def __init__(self):
        self._kept = b""

    def __call__(self, data):
        data, out = self._kept + data, b""
        while len(data) >= 8:
            number, code = struct.unpack_from("II", data)
            size = code >> 16
            if len(data) < size:
                break
            message, data = data[:size], data[size:]
            out += message
            if code == 24 << 16 | _BUFFER:
                _, width, height, stride = struct.unpack_from("4I", message, 8)
                if stride == 4 * width:
                    head = (number, 20 << 16 | _LINUX_DMABUF)
                    out += struct.pack("5I", *head, _XR24, width, height)
        self._kept = data
        return out


# -- a program of a guest -------------------------------------------------------------

SHARER = """
import os, subprocess, sys
from jeepney import DBusAddress, MatchRule, new_method_call
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
bus = open_dbus_connection(enable_fds=True, auth_timeout=60)
name, place = "org.freedesktop.portal.Desktop", "/org/freedesktop/portal/desktop"
cast = DBusAddress(place, name, "org.freedesktop.portal.ScreenCast")
rules = [
    MatchRule(type="signal", interface=f"org.freedesktop.portal.{one}")
    for one in ("Request", "Session")
]
for rule in rules:
    bus.send_and_get_reply(message_bus.AddMatch(rule))
def ask(method, signature, *words):
    with bus.filter(rules[0]) as answers:
        reply = bus.send_and_get_reply(new_method_call(cast, method, signature, words))
        if not str(reply.body[0]).startswith("/"):
            sys.exit(" ".join(map(str, reply.body)))
        code, results = bus.recv_until_filtered(answers).body
    print(method, code, results, flush=True)
    if code:
        sys.exit(code)
    return results
types, *words = sys.argv[1:]
session = ask("CreateSession", "a{sv}", {})["session_handle"][1]
ask("SelectSources", "oa{sv}", session, {"types": ("u", int(types))})
with bus.filter(rules[1]) as ends:
    streams = ask("Start", "osa{sv}", session, "", {})["streams"][1]
    call = new_method_call(cast, "OpenPipeWireRemote", "oa{sv}", (session, {}))
    given = bus.send_and_get_reply(call).body
    if isinstance(given[0], str):
        sys.exit(given[0])
    fd = given[0].to_raw_fd()
    os.set_inheritable(fd, True)
    node = f"path={streams[0][0]}"
    argv = ["gst-launch-1.0", "-q", "pipewiresrc", f"fd={fd}", node, "do-timestamp=true"]
    argv = ["setpriv", "--pdeathsig", "TERM", *argv, *words]
    seen = subprocess.Popen(argv, close_fds=False)
    end = bus.recv_until_filtered(ends)
    print("closed", end.header.fields[1] == session, flush=True)
seen.terminate()
"""


def sharer(guest, folder, types=1, stdout=DEVNULL):
    """Start a program of a guest that shares a screen, and keeps its pictures."""
    words = ["!", "videoconvert", "!", "pngenc", "!", "multifilesink"]
    words += [f"location={folder}/%05d.png", "max-files=4"]
    argv = [sys.executable, "-c", SHARER, str(types), *words]
    path = os.pathsep.join((str(ROOT), *(p for p in sys.path if p)))
    env = {**os.environ, **guest.env, "PYTHONPATH": path}
    return spawn(argv, env=env, stdout=stdout)
