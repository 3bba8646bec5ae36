"""A window that measures itself: start, film, scrolling, keys, and sound without a tone.

``brokerctl doctor --report`` runs it directly and in a box, by ``python3 -I -c``; it needs
the standard library alone, and libpulse for sound.  Its argument is the seconds of a part;
it prints one JSON object.  All times are of CLOCK_MONOTONIC, which box and host
share: those of presentation are the compositor's (wp_presentation), those of keys the
time of their events.
"""

from __future__ import annotations

import array
import ctypes
import json
import mmap
import os
import select
import socket
import struct
import sys
import time
from typing import Any, Dict, List, Optional, Tuple, Union

WIDTH, HEIGHT = 1280, 720
STRIDE = WIDTH * 4
SIZE = STRIDE * HEIGHT
BUFFERS = 3
SCROLL_ROWS = 24
PRESSES = 10
LATE_MS = 10_000
"""A key that is older by its own clock is measured by another clock."""
TITLE = "Vitrail measures: please press a key ten times"
_HEADER = struct.Struct("=IHH")
_KEYBOARD = 2
"""Bit of wl_seat.capabilities."""
_GLOBALS = {
    "wl_compositor": 4,
    "wl_shm": 1,
    "xdg_wm_base": 1,
    "wl_seat": 5,
    "wp_presentation": 1,
}


class Window:
    """A connection to the compositor with one window and three buffers."""

    def __init__(self, path: str) -> None:
        """Connect, bind the globals and wait for the first configure."""
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        self._data = b""
        self._next = 2
        self.globals: Dict[str, Tuple[int, int]] = {}
        self._objects: Dict[str, int] = {}
        self._feedback: Dict[int, Optional[int]] = {}
        self._free = [True] * BUFFERS
        self._ready = self._configured = False
        self._drawable = True
        self.clock = -1
        self._key_time: Optional[int] = None
        self._drawn_key: Optional[int] = None
        self.reset()
        self._registry = self._send(1, 1, self._new())
        self._sync()
        for name, newest in _GLOBALS.items():
            if name in self.globals:
                number, version = self.globals[name]
                self._bind(number, name, min(version, newest))
        if missing := {*_GLOBALS} - {"wl_seat"} - {*self._objects}:
            raise OSError("the compositor lacks " + ", ".join(sorted(missing)))
        self._sync()
        self._open()

    def reset(self) -> None:
        """Begin a part: forget the times of the one before."""
        self.times: List[float] = []
        self.keys: List[int] = []
        self.frames: List[float] = []
        self.frame_keys: List[int] = []

    @property
    def presents(self) -> bool:
        """Whether the compositor reports when pictures are shown, by our clock.

        wlroots 0.15 without a screen does not: the frame callbacks are counted then.
        """
        return bool(self.times) and self.clock == time.CLOCK_MONOTONIC

    def _new(self) -> int:
        self._next += 1
        return self._next - 1

    def _send(
        self, target: int, opcode: int, *values: Union[int, str], fd: int = -1
    ) -> int:
        """Send a request of numbers and texts; return the first number, a new object."""
        body = b""
        for value in values:
            if isinstance(value, str):
                raw = value.encode() + b"\0"
                body += struct.pack("=I", len(raw)) + raw + b"\0" * (-len(raw) % 4)
            else:
                body += struct.pack("=I", value & 0xFFFFFFFF)
        fds = array.array("i", [fd] if fd >= 0 else [])
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        message = _HEADER.pack(target, opcode, _HEADER.size + len(body)) + body
        self._sock.sendmsg([message], passed)
        return int(values[0]) if values and not isinstance(values[0], str) else 0

    def _bind(self, number: int, name: str, version: int) -> None:
        self._objects[name] = self._new()
        self._send(self._registry, 0, number, name, version, self._objects[name])

    def _open(self) -> None:
        fd = os.memfd_create("measured")
        os.ftruncate(fd, SIZE * BUFFERS)
        self._pixels = mmap.mmap(fd, SIZE * BUFFERS)
        new = self._new()
        pool = self._send(self._objects["wl_shm"], 0, new, SIZE * BUFFERS, fd=fd)
        os.close(fd)
        self._buffers = []
        for index in range(BUFFERS):
            new = self._new()
            layout = (index * SIZE, WIDTH, HEIGHT, STRIDE, 1)
            self._buffers.append(self._send(pool, 0, new, *layout))
        self._surface = self._send(self._objects["wl_compositor"], 0, self._new())
        shell = self._objects["xdg_wm_base"]
        xdg = self._send(shell, 2, self._new(), self._surface)
        self._objects["xdg_surface"] = xdg
        toplevel = self._send(xdg, 1, self._new())
        self._send(toplevel, 2, TITLE)
        self._send(self._surface, 6)
        while not self._configured:
            self.dispatch(5)

    def _sync(self) -> None:
        self._ready = False
        self._objects["wl_callback"] = self._send(1, 0, self._new())
        while not self._ready:
            self.dispatch(5)

    def dispatch(self, seconds: float) -> None:
        """Handle what the compositor sends within some seconds, or at once."""
        readable, _, _ = select.select([self._sock], [], [], seconds)
        if not readable:
            if seconds >= 5:
                raise OSError("the compositor does not answer")
            return
        # Keymaps come with a descriptor.
        data, ancillary, _, _ = self._sock.recvmsg(65536, socket.CMSG_SPACE(16))
        for _, _, raw in ancillary:
            for fd in array.array("i", raw[: len(raw) // 4 * 4]):
                os.close(fd)
        if not data:
            raise OSError("the compositor closed the connection")
        self._data += data
        while len(self._data) >= _HEADER.size:
            sender, opcode, size = _HEADER.unpack_from(self._data)
            if len(self._data) < size:
                break
            body, self._data = self._data[_HEADER.size : size], self._data[size:]
            self._handle(sender, opcode, body)

    def _handle(self, sender: int, opcode: int, body: bytes) -> None:
        objects = self._objects
        if sender == 1 and opcode == 0:
            raise OSError(f"the compositor refused a request: {body[12:]!r}")
        if sender == self._registry and opcode == 0:
            number, length = struct.unpack_from("=II", body)
            name = body[8 : 7 + length].decode()
            (version,) = struct.unpack_from("=I", body, len(body) - 4)
            self.globals[name] = (number, version)
        elif sender == objects.get("wl_callback"):
            self._ready = True
        elif sender == objects.get("frame"):
            self._drawable = True
            self._note(self.frames, self.frame_keys, time.monotonic(), self._drawn_key)
        elif sender == objects.get("xdg_wm_base"):
            self._send(sender, 3, *struct.unpack("=I", body))
        elif sender == objects.get("xdg_surface"):
            self._send(sender, 4, *struct.unpack("=I", body))
            self._configured = True
        elif sender == objects.get("wp_presentation"):
            (self.clock,) = struct.unpack("=I", body)
        elif sender in self._feedback and opcode:
            self._presented(sender, opcode, body)
        elif sender == objects.get("wl_seat") and opcode == 0:
            (capabilities,) = struct.unpack("=I", body)
            if capabilities & _KEYBOARD and "wl_keyboard" not in objects:
                objects["wl_keyboard"] = self._send(sender, 1, self._new())
        elif sender == objects.get("wl_keyboard") and opcode == 3:
            _, when, _, pressed = struct.unpack("=4I", body)
            if pressed and self._key_time is None:
                self._key_time = when
        elif hasattr(self, "_buffers") and sender in self._buffers:
            self._free[self._buffers.index(sender)] = True

    def _presented(self, sender: int, opcode: int, body: bytes) -> None:
        key = self._feedback.pop(sender)
        if opcode == 2:
            return  # discarded: another picture came before it
        high, low, nanoseconds = struct.unpack_from("=3I", body)
        seconds = (high << 32) + low + nanoseconds / 1e9
        self._note(self.times, self.keys, seconds, key)

    @staticmethod
    def _note(
        times: List[float], keys: List[int], seconds: float, key: Optional[int]
    ) -> None:
        times.append(seconds)
        if key is not None:
            keys.append((int(seconds * 1000) - key) % (1 << 32))

    def draw(self, kind: str, count: int) -> bool:
        """Commit the next picture if a buffer is free; ``kind``: film, scroll or key."""
        if not self._drawable or not any(self._free):
            return False
        index = self._free.index(True)
        start = index * SIZE
        if kind == "scroll":
            previous = (index - 1) % BUFFERS * SIZE
            moved = SCROLL_ROWS * STRIDE
            self._pixels.move(start, previous + moved, SIZE - moved)
            self._pixels[start + SIZE - moved : start + SIZE] = (
                _row(count) * SCROLL_ROWS
            )
        else:
            picture = _row(count) * HEIGHT
            self._pixels[start : start + SIZE] = picture
        self._free[index] = self._drawable = False
        feedback = self._new()
        self._drawn_key, self._key_time = self._key_time, None
        self._feedback[feedback] = self._drawn_key
        self._send(self._objects["wp_presentation"], 1, self._surface, feedback)
        self._objects["frame"] = self._send(self._surface, 3, self._new())
        self._send(self._surface, 1, self._buffers[index], 0, 0)
        self._send(self._surface, 2, 0, 0, WIDTH, HEIGHT)
        self._send(self._surface, 6)
        return True

    @property
    def key_waits(self) -> bool:
        """Whether a key was pressed that no picture shows yet."""
        return self._key_time is not None


def _row(count: int) -> bytes:
    """Return a row of pixels that differs for each count."""
    shade = count * 7 % 256
    return bytes([shade, 255 - shade, count % 256, 255] * WIDTH)


def play(window: Window, kind: str, seconds: float) -> Dict[str, Any]:
    """Draw as often as the compositor asks; return the rate and the longest pause."""
    window.reset()
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        count += window.draw(kind, count)
        window.dispatch(max(0.0, min(0.1, end - time.monotonic())))
    times = window.times if window.presents else window.frames
    gaps = [1000 * (b - a) for a, b in zip(times, times[1:])]
    if not gaps:
        return {"missing": "no picture was presented"}
    return {
        "frames_per_second": round(len(gaps) / (times[-1] - times[0]), 1),
        "longest_pause_ms": round(max(gaps), 1),
    }


def press(window: Window, seconds: float) -> Dict[str, Any]:
    """Wait for keys, and draw after each; return key to picture."""
    window.reset()
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end and len(window.frame_keys) < PRESSES:
        if window.key_waits:
            count += window.draw("key", count)
        window.dispatch(max(0.0, min(0.1, end - time.monotonic())))
    measured = window.keys if window.presents else window.frame_keys
    keys = sorted(key for key in measured if key < LATE_MS)
    if not keys:
        return {"missing": "no key was pressed in the window"}
    return {"keys": len(keys), "median_ms": keys[len(keys) // 2], "most_ms": keys[-1]}


def sound(seconds: float) -> Dict[str, Any]:
    """Play silence; return the latency that the server reports, and its variation."""
    try:
        pulse = ctypes.CDLL("libpulse-simple.so.0")
    except OSError:
        return {"missing": "libpulse-simple is not installed"}
    pulse.pa_simple_new.restype = ctypes.c_void_p
    pulse.pa_simple_get_latency.restype = ctypes.c_uint64
    error = ctypes.c_int()
    form = struct.pack("=iIB3x", 3, 48000, 2)  # 16 bits, little endian
    none = 0xFFFFFFFF
    attributes = struct.pack("=5I", none, 9600, none, none, none)  # 50 ms
    stream = pulse.pa_simple_new(
        None,
        b"vitrail",
        1,
        None,
        b"measured",
        form,
        None,
        attributes,
        ctypes.byref(error),
    )
    if not stream:
        return {"missing": "no sound server can be reached"}
    handle = ctypes.c_void_p(stream)
    latencies = []
    end = time.monotonic() + seconds
    silence = bytes(1920)  # 10 ms
    while time.monotonic() < end:
        if pulse.pa_simple_write(handle, silence, len(silence), ctypes.byref(error)):
            return {"missing": "the sound server ended the stream"}
        delay = pulse.pa_simple_get_latency(handle, ctypes.byref(error))
        latencies.append(delay / 1000)
    pulse.pa_simple_free(handle)
    latencies = sorted(latencies[len(latencies) // 4 :])  # the first fill the buffer
    low, high = latencies[len(latencies) // 20], latencies[-1 - len(latencies) // 20]
    median = latencies[len(latencies) // 2]
    return {"latency_ms": round(median, 1), "jitter_ms": round(high - low, 1)}


def main(seconds: float) -> None:
    """Measure each part for so long, keys for twice the time, and print the results."""
    rows: Dict[str, Any] = {}
    try:
        directory = os.environ.get("XDG_RUNTIME_DIR", "/")
        name = os.environ.get("WAYLAND_DISPLAY", "wayland-0")
        window = Window(os.path.join(directory, name))
        window.draw("film", 0)
        until = time.monotonic() + 10
        while not window.frames and time.monotonic() < until:
            window.dispatch(0.1)
        times = window.times if window.presents else window.frames
        if times:
            rows["first_picture"] = times[0]
        rows["by"] = "presentation" if window.presents else "frame callbacks"
        rows["gpu_buffers"] = "zwp_linux_dmabuf_v1" in window.globals
        for kind in ("film", "scroll"):
            rows[kind] = play(window, kind, seconds)
        rows["key"] = press(window, 2 * seconds)
    except OSError as error:
        rows["window"] = {"missing": str(error.strerror or error)}
    rows["sound"] = sound(seconds)
    print(json.dumps(rows))


if __name__ == "__main__":
    main(float(sys.argv[1]))
