"""PipeWire, as far as pictures need it: a video source, and a connection with few rights.

``libpipewire-0.3.so.0`` is called as it is, since PipeWire's own programs make nodes of
sound only.  Sources: its ``stream.h``, ``core.h``, ``client.h``, ``examples/video-src.c``
and ``spa/param``.
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

from shims.files.protocol import TransferError

if TYPE_CHECKING:
    import ctypes
    import mmap
    from typing import Any, Dict, List, Tuple

PW_OUTPUT, PW_ANY = 1, 0xFFFFFFFF
PW_DRIVER, PW_ALLOCATES = 1 << 3, 1 << 8
PW_FAILED, PW_STREAMING = -1, 3
# spa/utils/type.h, spa/param/param.h, format.h and buffers.h
SPA_ID, SPA_INT, SPA_RECTANGLE, SPA_FRACTION, SPA_OBJECT, SPA_CHOICE = (
    *(3, 4, 10, 11),
    *(15, 19),
)
SPA_RANGE, SPA_FLAGS = 1, 4
SPA_FORMAT, SPA_BUFFERS = 0x40003, 0x40004
ENUM_FORMAT_ID, FORMAT_ID, BUFFERS_ID = 3, 4, 5
SPA_VIDEO, SPA_RAW, SPA_I420, SPA_BGRX = 2, 1, 2, 8
SPA_MEMFD = 2  # spa/buffer/buffer.h
NODE_BUFFERS = (8, 2, 32)  # usual, least, most
PW_READ, PW_WRITE, PW_EXECUTE = 0o400, 0o200, 0o100
SPA_DATA = struct.Struct("@IIqIIPP")  # type, flags, fd, offset, size, data, chunk
ROUND_TRIP_SECONDS = 5.0
NODE_SECONDS, NODE_AGAIN_SECONDS = 10.0, 0.2


def spa_pod(kind: int, body: bytes) -> bytes:
    """Return a value as a POD."""
    return struct.pack("II", len(body), kind) + body + bytes(-len(body) % 8)


def spa_object(kind: int, number: int, values: Dict[int, bytes]) -> bytes:
    """Return an object of PODs by their keys."""
    body = struct.pack("II", kind, number)
    for key, value in values.items():
        body += struct.pack("II", key, 0) + value
    return spa_pod(SPA_OBJECT, body)


def format_pod(width: int, height: int, rate: int, form: int = SPA_I420) -> bytes:
    """Return the one format of a node, as SPA_PARAM_EnumFormat."""
    values = {
        1: spa_pod(SPA_ID, struct.pack("I", SPA_VIDEO)),
        2: spa_pod(SPA_ID, struct.pack("I", SPA_RAW)),
        0x20001: spa_pod(SPA_ID, struct.pack("I", form)),
        0x20003: spa_pod(SPA_RECTANGLE, struct.pack("II", width, height)),
        0x20004: spa_pod(SPA_FRACTION, struct.pack("II", rate, 1)),
    }
    return spa_object(SPA_FORMAT, ENUM_FORMAT_ID, values)


def buffers_pod(size: int, stride: int) -> bytes:
    """Return the buffers that a node needs, as SPA_PARAM_Buffers."""
    count = struct.pack("4I3i", SPA_RANGE, 0, 4, SPA_INT, *NODE_BUFFERS)
    kinds = struct.pack("4Ii", SPA_FLAGS, 0, 4, SPA_INT, 1 << SPA_MEMFD)
    values = {1: spa_pod(SPA_CHOICE, count), 6: spa_pod(SPA_CHOICE, kinds)}
    for key, number in ((2, 1), (3, size), (4, stride)):
        values[key] = spa_pod(SPA_INT, struct.pack("i", number))
    return spa_object(SPA_BUFFERS, BUFFERS_ID, values)


class VideoNode:
    """A source of pictures while it exists, I420 or BGRx; ``wanted`` while a program takes them."""

    def __init__(
        self,
        properties: str,
        width: int,
        height: int,
        rate: int,
        form: int = SPA_I420,
    ) -> None:
        """Connect to the server of this session.  Raises TransferError."""
        import ctypes
        import threading

        self._size, self._stride = width * height * 3 // 2, width
        if form == SPA_BGRX:
            self._size, self._stride = 4 * width * height, 4 * width
        self._picture = b""
        self._kept: Dict[str, Any] = {}  # what the library has pointers to
        self._memory: Dict[int, mmap.mmap] = {}  # of each buffer
        self.changed = threading.Event()
        """Set at each change of ``wanted`` and ``failed``."""
        self.wanted = self.failed = False
        lib = self._lib = pipewire_library()
        whole, number = ctypes.c_void_p, ctypes.c_uint32
        state = ctypes.CFUNCTYPE(None, whole, ctypes.c_int, ctypes.c_int, whole)
        param = ctypes.CFUNCTYPE(None, whole, number, whole)
        # struct pw_stream_events, version 0
        calls = {
            2: state(self._state_changed),
            5: param(self._param_changed),
            6: ctypes.CFUNCTYPE(None, whole, whole)(self._add_buffer),
            7: ctypes.CFUNCTYPE(None, whole, whole)(self._remove_buffer),
            8: ctypes.CFUNCTYPE(None, whole)(self._process),
        }
        self._kept["events"] = calls, pointers_to(calls, 10)
        self._loop = lib.pw_thread_loop_new(b"vitrail", None)
        lib.pw_thread_loop_start(self._loop)
        lib.pw_thread_loop_lock(self._loop)
        self._stream = lib.pw_stream_new_simple(
            lib.pw_thread_loop_get_loop(self._loop),
            b"vitrail",
            lib.pw_properties_new_string(properties.encode()),
            self._kept["events"][1],
            None,
        )
        done = -1
        if self._stream:
            params = self._params(format_pod(width, height, rate, form))
            # WebRTC takes no memory of the server's, which has no descriptor.
            flags = PW_DRIVER | PW_ALLOCATES
            done = lib.pw_stream_connect(
                self._stream, PW_OUTPUT, PW_ANY, flags, params, 1
            )
        lib.pw_thread_loop_unlock(self._loop)
        if done < 0:
            self.close()
            raise TransferError("no PipeWire server is running in this sandbox")

    def show(self, picture: bytes) -> None:
        """Give a picture to the programs that take it; drop it without one."""
        self._lib.pw_thread_loop_lock(self._loop)
        if self.wanted and len(picture) == self._size:
            self._picture = picture
            self._lib.pw_stream_trigger_process(self._stream)
        self._lib.pw_thread_loop_unlock(self._loop)

    def number(self) -> int:
        """Wait for the node's number at the server, and return it.

        Raises TransferError, and closes, where the server does not take it.
        """
        until = time.monotonic() + NODE_SECONDS
        while True:
            self._lib.pw_thread_loop_lock(self._loop)
            number = self._lib.pw_stream_get_node_id(self._stream)
            self._lib.pw_thread_loop_unlock(self._loop)
            if number != PW_ANY:
                return int(number)
            if self.failed or time.monotonic() > until:
                self.close()
                raise TransferError("PipeWire did not accept a video source")
            self.changed.wait(NODE_AGAIN_SECONDS)
            self.changed.clear()

    def close(self) -> None:
        """Remove the node; it may not be used any more."""
        lib = self._lib
        lib.pw_thread_loop_lock(self._loop)
        if self._stream:
            lib.pw_stream_destroy(self._stream)
        lib.pw_thread_loop_unlock(self._loop)
        lib.pw_thread_loop_stop(self._loop)
        lib.pw_thread_loop_destroy(self._loop)

    def _params(self, pod: bytes) -> ctypes.Array[Any]:
        import ctypes

        made = ctypes.create_string_buffer(pod, len(pod))
        self._kept["pod"] = made
        return (ctypes.c_void_p * 1)(ctypes.addressof(made))

    # -- called by the library, in its thread --------------------------------------------

    def _state_changed(
        self, _data: object, _old: int, new: int, _error: object
    ) -> None:
        self.wanted = new == PW_STREAMING
        self.failed = self.failed or new == PW_FAILED
        self.changed.set()

    def _give_up(self) -> None:
        self.failed = True
        self.changed.set()

    def _param_changed(self, _data: object, number: int, param: int) -> None:
        if number == FORMAT_ID and param:
            params = self._params(buffers_pod(self._size, self._stride))
            self._lib.pw_stream_update_params(self._stream, params, 1)

    def _add_buffer(self, _data: object, added: int) -> None:
        """Create a buffer's memory when PipeWire adds one."""
        import ctypes
        import mmap

        fd = -1
        try:
            fd = os.memfd_create("vitrail", os.MFD_CLOEXEC)
            os.ftruncate(fd, self._size)
            self._memory[added] = mmap.mmap(fd, self._size)
        except OSError:
            if fd >= 0:
                os.close(fd)
            # Without this buffer pictures stop sooner or later: the node ends.
            # guard: a node without memory for its pictures ends
            self._give_up()
            return
        place = data_of(added)
        chunk = memory_at(SPA_DATA.format, place)[-1]
        filled = SPA_DATA.pack(SPA_MEMFD, 3, fd, 0, self._size, 0, chunk)
        ctypes.memmove(place, filled, len(filled))

    def _remove_buffer(self, _data: object, removed: int) -> None:
        if removed not in self._memory:
            return  # there was no memory for it
        self._memory.pop(removed).close()
        os.close(memory_at(SPA_DATA.format, data_of(removed))[2])

    def _process(self, _data: object) -> None:
        """Fill a free buffer with the picture, for PipeWire."""
        import ctypes

        taken = self._lib.pw_stream_dequeue_buffer(self._stream)
        if taken not in self._memory:
            return  # no program has given one back: this picture is dropped
        # The library may ask before the first picture is shown.
        if len(self._picture) == self._size:
            self._memory[taken][:] = self._picture
            chunk = memory_at(SPA_DATA.format, data_of(taken))[-1]
            ctypes.memmove(
                chunk, struct.pack("IIii", 0, self._size, self._stride, 0), 16
            )
        self._lib.pw_stream_queue_buffer(self._stream, taken)


def narrowed(connected: int, shown: List[int]) -> int:
    """Let a connection to PipeWire see some objects of the server alone, and make nodes.

    Returns the descriptor to continue with; ``connected`` is closed.  The server keeps its
    rights for the connection, whoever uses it then.  Raises TransferError.
    """
    import ctypes
    import threading

    lib, done = pipewire_library(), threading.Event()
    loop = lib.pw_thread_loop_new(b"vitrail", None)
    context = lib.pw_context_new(lib.pw_thread_loop_get_loop(loop), None, 0)
    core = lib.pw_context_connect_fd(context, connected, None, 0) if context else None
    if not core:
        raise TransferError("PipeWire does not answer")
    client = lib.pw_core_get_client(core)
    # struct pw_proxy_events, version 0
    heard = {
        4: ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)(lambda *_: done.set())
    }
    events, hook = pointers_to(heard, 6), (ctypes.c_uint64 * 16)()
    lib.pw_proxy_add_listener(core, hook, events, None)
    rights = [(0, PW_READ | PW_WRITE | PW_EXECUTE)]
    rights += [(number, PW_READ | PW_EXECUTE) for number in shown]
    rights += [(PW_ANY, 0)]
    packed = b"".join(struct.pack("II", *right) for right in rights)
    # struct spa_interface: type, version, methods, data; then struct pw_client_methods
    methods, data = memory_at("@PIPP", client)[2:]
    (address,) = memory_at("@P", methods + 5 * struct.calcsize("P"))
    kinds = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_char_p)
    update = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(address)
    # guard: the process that reads a camera sees nothing else of PipeWire
    update(data, len(rights), packed)
    lib.pw_proxy_sync(core, 0)
    lib.pw_thread_loop_start(loop)
    if not done.wait(ROUND_TRIP_SECONDS):
        raise TransferError("PipeWire does not answer")
    lib.pw_thread_loop_stop(loop)
    kept = lib.pw_core_steal_fd(core)
    if kept < 0:
        raise TransferError("PipeWire does not answer")
    return int(kept)


def data_of(taken: int) -> int:
    """Return where the struct spa_data of a struct pw_buffer is; it has one."""
    (buffer,) = memory_at("@P", taken)
    return int(memory_at("@IIPP", buffer)[3])


def memory_at(form: str, place: int) -> Tuple[Any, ...]:
    """Return the values of a structure of the library, at its address."""
    import ctypes

    return struct.unpack(form, ctypes.string_at(place, struct.calcsize(form)))


def pointers_to(calls: Dict[int, Any], count: int) -> ctypes.Array[Any]:
    """Return a structure of functions, whose first place is its version: 0."""
    import ctypes

    made = (ctypes.c_void_p * count)()
    for place, call in calls.items():
        made[place] = ctypes.cast(call, ctypes.c_void_p).value
    return made


def pipewire_library() -> ctypes.CDLL:
    """Return the library with the types of the called functions.  Raises TransferError."""
    import ctypes

    try:
        lib = ctypes.CDLL("libpipewire-0.3.so.0")
    except OSError as error:
        raise TransferError(f"cannot load PipeWire: {error}") from None
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
    size, signed = ctypes.c_size_t, ctypes.c_int
    for name, back, kinds in (
        ("pw_init", None, (pointer, pointer)),
        ("pw_thread_loop_new", pointer, (text, pointer)),
        *(
            (f"pw_thread_loop_{n}", None, (pointer,))
            for n in ("lock", "unlock", "stop")
        ),
        ("pw_thread_loop_start", signed, (pointer,)),
        ("pw_thread_loop_destroy", None, (pointer,)),
        ("pw_thread_loop_get_loop", pointer, (pointer,)),
        ("pw_properties_new_string", pointer, (text,)),
        ("pw_stream_new_simple", pointer, (pointer, text, pointer, pointer, pointer)),
        (
            "pw_stream_connect",
            signed,
            (pointer, signed, number, number, pointer, number),
        ),
        ("pw_stream_destroy", None, (pointer,)),
        ("pw_stream_get_node_id", number, (pointer,)),
        ("pw_stream_dequeue_buffer", pointer, (pointer,)),
        ("pw_stream_queue_buffer", signed, (pointer, pointer)),
        ("pw_stream_trigger_process", signed, (pointer,)),
        ("pw_stream_update_params", signed, (pointer, pointer, number)),
        ("pw_context_new", pointer, (pointer, pointer, size)),
        ("pw_context_connect_fd", pointer, (pointer, signed, pointer, size)),
        ("pw_core_get_client", pointer, (pointer,)),
        ("pw_core_steal_fd", signed, (pointer,)),
        ("pw_proxy_add_listener", None, (pointer, pointer, pointer, pointer)),
        ("pw_proxy_sync", signed, (pointer, signed)),
    ):
        call = getattr(lib, name)
        call.restype, call.argtypes = back, kinds
    lib.pw_init(None, None)
    return lib


def narrow(arguments: List[str]) -> int:
    """Run a command on a narrowed connection: ``narrowed PIPEWIRE OBJECT… COMMAND…``.

    At the desktop, in a jail: the descriptor keeps its number.
    """
    connected, command = int(arguments[0]), arguments[1:]
    objects = []
    while command and command[0].isdigit():
        objects.append(int(command.pop(0)))
    os.dup2(narrowed(connected, objects), connected, inheritable=True)
    os.execv(command[0], command)


CAMERA_VERBS = {"narrowed": narrow}
"""The jail in which the desktop takes pictures has these commands alone."""
