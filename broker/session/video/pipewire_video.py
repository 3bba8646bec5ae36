"""A jailed process that takes pictures of a node of PipeWire (GStreamer).

It makes each picture of the size that was asked for, and writes them one after the other:
what reaches the sandbox has no header, and nothing of the sandbox is read.  A picture that
the sandbox has not taken when the next one comes is dropped.
"""

from __future__ import annotations

import os
import socket
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from broker.core.distribution import install_hint
from broker.core.errors import SetupError
from broker.helpers.filters import box_filters
from broker.helpers.process.jail_libraries import library_words, python_words
from broker.helpers.process.memory_file import memory_file
from broker.helpers.process.popen import DEVNULL, Process
from broker.helpers.tools.profiles import CAMERA
from broker.session.order_exchange import OrderExchange
from broker.session.warrant_check import VerifiedPermit
from shims.bundle import carried_tool

RATE = 30
"""Pictures a second at most."""
_MEMORY_BYTES = 1 << 30
_SIDE = 8192
"""Pixels; a source of more is not opened."""
_PROGRAM = "/usr/bin/gst-launch-1.0"
_PLUGINS = ("coreelements", "pipewire", "videorate", "videoconvertscale")
_OLDER_PLUGINS = ("videoconvert", "videoscale")
"""In the place of the last one, before GStreamer 1.22."""
_PACKAGES = (
    *("pipewire-bin", "gstreamer1.0-tools", "gstreamer1.0-plugins-base"),
    "gstreamer1.0-pipewire",
)


@dataclass(frozen=True)
class PictureSource:
    """A node of PipeWire."""

    element: str
    """The option of GStreamer's pipewiresrc that names it; of our numbers."""
    shown: tuple[int, ...] = ()
    """The objects that the process sees; empty: as its connection has been narrowed."""
    steady: bool = True
    """Whether it has a rate of its own, without which videorate (GStreamer 1.22) fails."""
    form: str = "I420"
    """Of the pictures that a sandbox gets; GStreamer's name."""


def take_pictures(
    exchange: OrderExchange,
    source: PictureSource,
    size: tuple[int, int],
    server: socket.socket,
    held: VerifiedPermit | None = None,
) -> None:
    """Run GStreamer to take pictures until the viewer ends it, or ``held`` is lost.

    ``server``: a connection to PipeWire.  Raises SetupError, OSError.
    """
    with ExitStack() as ours:
        near, far = (ours.enter_context(end) for end in socket.socketpair())
        tool = memory_file(ours, carried_tool(CAMERA.verbs))
        rules = memory_file(ours, box_filters.box_filter())
        command_line = [
            # What a camera can have it take
            *("prlimit", f"--as={_MEMORY_BYTES}:{_MEMORY_BYTES}", "--core=0:0"),
            *("--rtprio=0:0", "--nice=0:0", "--"),
            *("bwrap", "--seccomp", str(rules), *jail_words()),
        ]
        if source.shown:
            command_line += [*python_words(), f"/proc/self/fd/{tool}", "narrowed"]
            command_line += map(str, (server.fileno(), *source.shown))
        command_line += pipeline(source, size, server.fileno(), far.fileno())
        fds = (rules, tool, server.fileno(), far.fileno())

        def begun(_process: Process) -> None:
            far.close()
            server.close()
            exchange.answer(fds=[near.fileno()])
            near.close()

        exchange.run(
            command_line,
            pass_fds=fds,
            stdout=DEVNULL,
            stderr=DEVNULL,
            on_start=begun,
            permit=held,
        )


def pipeline(
    source: PictureSource, size: tuple[int, int], server: int, out: int
) -> Iterator[str]:
    """Return GStreamer's command line; only our numbers are in it.

    Raises SetupError where a part is not installed.
    """
    width, height = size
    side = f"[1,{_SIDE}]"
    yield from (_PROGRAM, "--no-fault", f"--gst-plugin-load={','.join(_plugins())}")
    yield from ("pipewiresrc", f"fd={server}", source.element)
    # Times of a camera may be those of its clock.
    yield from ("do-timestamp=true", "!")
    # No picture of 2^31 pixels is taken
    yield from (f"video/x-raw,width={side},height={side}", "!")
    if source.steady:
        yield from ("videorate", "drop-only=true", f"max-rate={RATE}", "!")
    yield from ("videoconvert", "!", "videoscale", "add-borders=true", "!")
    form = f"video/x-raw,format={source.form},width={width},height={height}"
    yield from (f"{form},pixel-aspect-ratio=1/1", "!")
    # guard: pictures that are not taken are dropped
    yield from ("queue", "leaky=downstream", "max-size-buffers=2", "!")
    yield from ("fdsink", f"fd={out}", "sync=false")


def _plugins() -> list[str]:
    """Return the files of the plugins, and no others: most decode something."""
    own = sysconfig.get_config_var("MULTIARCH") or ""
    for place in (Path("/usr/lib", own), Path("/usr/lib64"), Path("/usr/lib")):
        folder = place / "gstreamer-1.0"
        if (folder / "libgstpipewire.so").exists() and os.access(_PROGRAM, os.X_OK):
            names = [*_PLUGINS, *_OLDER_PLUGINS]
            files = [folder / f"libgst{name}.so" for name in names]
            return [str(file) for file in files if file.exists()]
    raise SetupError(
        "gst-launch-1.0 or GStreamer's plugin for PipeWire is not installed",
        hint=install_hint(*_PACKAGES),
    )


def jail_words() -> Iterator[str]:
    """Return bubblewrap's words: libraries and programs to read, and two descriptors."""
    yield from ("--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1")
    yield from ("--cap-drop", "ALL", "--clearenv", "--setenv", "LC_ALL", "C.UTF-8")
    # No plugin is looked for, and no list of them is written.
    for name in ("GST_PLUGIN_SYSTEM_PATH_1_0", "GST_PLUGIN_PATH_1_0"):
        yield from ("--setenv", name, "")
    yield from ("--setenv", "GST_REGISTRY_DISABLE", "yes")
    yield from library_words()
    yield from ("--ro-bind", "/usr", "/usr", "--proc", "/proc")
    yield from ("--dev-bind", "/dev/null", "/dev/null", "--chdir", "/")
    yield from ("--remount-ro", "/", "--")
