"""The filter of one Wayland connection: the machine between two byte streams.

Access of a client
    It sees a compositor that has the globals of ``verdicts.py`` and no others.  Every
    message is parsed, checked against the frozen tables and the protocol's rules, and
    serialised again with ids of our own; nothing is passed through unread.

Trust in the compositor
    It is trusted to speak the protocol.  A message from it that does not parse
    ends the connection (UpstreamError); there is no workaround.

Outside the scope of this filter
    The picture that an application draws inside its content rectangle, and
    the claims of a taken-over worker: this file guards against the client only.

How ids stay consistent
    Objects have an id on each side, from separate spaces (``objects.py``).
    An object that the client destroyed stays in both tables as dead until
    the compositor confirms (delete_id), so late events find it and go
    nowhere, and no id is given out twice.

One connection to the compositor for each client keeps a mistake to the one
that made it.  Sans-IO: feed bytes and descriptors, take ``up`` and ``down``.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence

from typing_extensions import override

from broker.core.errors import InternalError, RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules
from broker.core.streams.wayland_verdicts import DMABUF
from broker.jail.wayland import choice, handler_table
from broker.jail.wayland.gpu import dmabuf
from broker.jail.wayland.handlers import (
    attention,
    cursor,
    drag_start,
    exported_windows,
    host_seat,
    outputs,
    popups,
    selection,
    surfaces,
)
from broker.jail.wayland.handlers.registry import Advertised, Globals, make_inert, told
from broker.jail.wayland.input_model import OwnSurface
from broker.jail.wayland.model import COMPOSITOR_VERSION, Surface
from broker.jail.wayland.ports import OperatingSystem
from broker.jail.wayland.protocol import dispatch, emit, wire
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.sync import send_sync
from broker.jail.wayland.protocol.wire import Fd, ProtocolFault, internal
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.wayland.scene import (
    buffer_part,
    commit,
    fifo,
    icon,
    screen_change,
    window_state,
)
from broker.jail.wayland.scene.shown import after_frames
from broker.jail.wayland.state import ENOUGH, ClientState

_MESSAGE_BYTES = 20
"""Size of a usual request (attach, damage, commit and a frame's, on average)."""
_LOOKED_AT = 4
"""After so many messages the queues and the time are looked at."""
_NEW_TURN = -1.0
"""A turn's end before the first look."""
_SIZES = frozenset(range(wire.HEADER.size, wire.MAX_MESSAGE + 1, 4))
"""Valid sizes of a message, in bytes."""

# Globals (with their least version) that frames are made of: without any of
# them no window may be shown.
NEEDED = {
    "wl_compositor": COMPOSITOR_VERSION,
    "wl_subcompositor": 1,
    "wl_shm": 1,
    "wp_viewporter": 1,
    "xdg_wm_base": 1,
}


class RefusalError(UpstreamError):
    """The compositor sent wl_display.error; ids are the client's."""

    def __init__(self, message: str, *, object_id: int, code: int) -> None:
        super().__init__(message)
        self.object_id = object_id
        self.code = code


class WaylandFilter(ClientState):
    """One client's connection.

    ``up`` is on its way to the compositor, ``down`` to the client.  ``ready``
    once the compositor has advertised its globals: the client is not read before.
    ``fault`` is set when the connection is over; ``down`` then ends with the
    client's error and goes out before the socket closes.
    """

    def __init__(
        self,
        rules: WindowRules,
        sandbox: Sandbox,
        machine: OperatingSystem,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(rules, sandbox, machine, wake, handler_table)
        self.globals = Globals(rules.allow, rules.deny)
        self.hands = host_seat.Hands(self)
        self.drag = drag_start.DragStart()
        self._xdg_outputs = 0
        # Bytes that are not yet a whole message, and descriptors before theirs.
        self._client_rest = b""
        self._server_rest = b""
        self._client_fds: deque[Fd] = deque()
        self._server_fds: deque[Fd] = deque()
        self._start()

    # -- life ---------------------------------------------------------------------

    def _start(self) -> None:
        """Create the objects by which the filter itself speaks to the compositor."""
        display = ProtocolObject("wl_display", 1)
        display.cid = display.sid = 1
        self.arm(display)
        self.by_client[1] = self.by_server[1] = display
        registry = self.own("wl_registry")
        registry.events = dispatch.own_events("wl_registry", _REGISTRY_EVENTS)
        self.registry = registry.sid
        self.up.data += emit.get_registry(1, registry.sid)
        send_sync(self, _SYNC_EVENTS)
        self.usage.take("clients", 1)
        self.sandbox.filters.add(self)

    def begin(self) -> None:
        """Bind the globals that frames need.  Raises UpstreamError without one."""
        first = self.globals.first()
        missing = [
            name if found is None else f"{name} version {least} (found {found[1]})"
            for name, least in NEEDED.items()
            if (found := first.get(name)) is None or found[1] < least
        ]
        # guard: fail closed without viewporter
        if missing:
            raise UpstreamError(
                f"the compositor lacks {', '.join(missing)}, which window frames require",
                hint="use a compositor with these protocols, for example sway, labwc, niri, "
                "KWin, GNOME or weston",
            )

        self.frame_by_compositor(frozenset(first))
        self.crops_by_buffer = buffer_part.needed(first)
        # A compositor that draws with the CPU has no buffers of a GPU to offer.
        # guard: the CPU draws more slowly
        if "zwp_linux_dmabuf_v1" not in first:
            self.pixel_weight = limits.WAYLAND_CPU_PIXEL_WEIGHT

        def bind(interface: str, version: int) -> int:
            """Our id; 0 for what the compositor has not."""
            if interface not in first:
                return 0
            name, _ = first[interface]
            obj = self.own(interface)
            self.up.data += emit.bind(
                self.registry, name, interface.encode(), version, obj.sid
            )
            return obj.sid

        self.compositor = bind("wl_compositor", COMPOSITOR_VERSION)
        self.subcompositor = bind("wl_subcompositor", 1)
        self.shm = bind("wl_shm", 1)
        self.viewporter = bind("wp_viewporter", 1)
        self.data_version = min(3, first.get("wl_data_device_manager", (0, 0))[1])
        self.data_manager = bind("wl_data_device_manager", self.data_version)
        self._xdg_outputs = bind("zxdg_output_manager_v1", 1)
        self.cursor_shapes = bind(cursor.MANAGER, 1)
        self.icons = bind(icon.MANAGER, 1)
        self.fifo = bind(fifo.MANAGER, 1)
        if attention.IDLE_MANAGER in self.rules.allow:
            self.idle_inhibit = bind(attention.IDLE_MANAGER, 1)
        if DMABUF in self.rules.allow - self.rules.deny:
            dmabuf.bind(self, *first.get(DMABUF, (0, 0)))
        for name, (interface, version) in list(self.globals.host.items()):
            if interface == "wl_output":
                self._watch_output(name, version)
            elif interface == "wl_seat":
                self.hands.add_seat(name, version)
        self.ready = True

    def _watch_output(self, name: int, version: int) -> None:
        version = min(2, version)
        screen = self.own("wl_output", outputs.LogicalOutput("wl_output", version))
        assert isinstance(screen, outputs.LogicalOutput)
        screen.events = dispatch.own_events("wl_output", outputs.SCREEN_EVENTS)
        self.up.data += emit.bind(
            self.registry, name, b"wl_output", version, screen.sid
        )
        self.screens[name] = screen
        if self._xdg_outputs:
            size = self.own("zxdg_output_v1", outputs.LogicalSize("zxdg_output_v1", 1))
            assert isinstance(size, outputs.LogicalSize)
            size.screen = screen
            size.events = dispatch.own_events("zxdg_output_v1", outputs.LOGICAL_EVENTS)
            self.up.data += emit.get_xdg_output(self._xdg_outputs, size.sid, screen.sid)

    def close(self) -> None:
        """Release all that the ended connection held: descriptors, files, windows."""
        choice.unmap_all(self.sandbox, self.windows, self.now)
        for queue in (self.up, self.down):
            for fd in queue.drain_fds():
                self.machine.close(fd)
        for fds in (self._client_fds, self._server_fds):
            while fds:
                self.machine.close(fds.popleft())
        self._close_files()
        for device in self.devices:
            # guard: a client that is gone takes nothing
            device.go_on()
        self.palette.close()
        self.usage.give_all()
        exported_windows.close(self)
        self.hands.close()
        self.focused.clear()
        self.sandbox.filters.discard(self)
        self.sandbox.note_focus()
        for obj in list(self.by_client.values()):
            if isinstance(obj, selection.DataSource):
                obj.dead = True
                self.sandbox.forget(obj)
                obj.forget()

    def _close_files(self) -> None:
        for pool in self.pools:
            if pool.file is not None:
                pool.file.close()
        dmabuf.close(self)
        self.pools.clear()

    # -- bytes in ---------------------------------------------------------------------

    def from_client(self, untrusted_data: bytes, fds: Sequence[Fd], now: float) -> None:
        """Handle bytes and descriptors of the client; nothing after a fault.

        A short request may make a long answer, or show many pixels.  When
        enough waits in a queue, or was shown, the rest is kept and ``paused``
        set: call again, with nothing new, when there is room and time.
        """
        if fds:
            self._client_fds.extend(fds)
        if self.fault is not None:
            return
        self.now = now
        data = (
            self._client_rest + untrusted_data if self._client_rest else untrusted_data
        )
        try:
            self._may_read()
            self._client_rest = self._read_client(data)
            if self.inhibitors:
                attention.follow_windows(self)
        except ProtocolFault as fault:
            self.fail(fault)
        # guard: our mistake ends one connection
        except Exception as error:  # noqa: BLE001 - one door: see internal
            self.fail(internal(error))

    def _may_read(self) -> None:
        if not self.ready:
            raise InternalError("the client was read before the compositor was ready")
        # guard: descriptors bounded
        if len(self._client_fds) > limits.WAYLAND_FDS_IN_FLIGHT:
            raise self.too_much("received too many descriptors before their messages")

    def _read_client(self, data: bytes) -> bytes:
        """Handle whole messages until they or the turn end; return the rest."""
        objects = self.by_client
        unpack = wire.HEADER.unpack_from
        pos, end = 0, len(data)
        last = end - wire.HEADER.size
        count = 0
        up = self.up.data
        before = len(up)
        most = self.pixels + limits.WAYLAND_COMMIT_PIXELS_AT_ONCE
        turn = _NEW_TURN
        self.paused = False
        try:
            while pos <= last:
                # guard: large pictures pause reading
                if self.pixels >= most:
                    self.paused = True
                    break
                # guard: a client's turn ends
                if count % _LOOKED_AT == _LOOKED_AT - 1 and not (
                    turn := self._turn(turn)
                ):
                    self.paused = True
                    break
                oid, opcode, size = unpack(data, pos)
                # guard: message size
                if size not in _SIZES:
                    raise wire.bad_message(1, f"invalid message size: {size} bytes")
                if pos + size > end:
                    break
                try:
                    obj = objects[oid]
                    handler = obj.requests[opcode]
                except LookupError:
                    raise self._unknown_request(oid, opcode) from None
                handler(self, obj, data, pos, size)
                pos += size
                count += 1
        except wire.UnfinishedError:
            self.paused = True
        # One short request may make many at the compositor: a commit sends its
        # regions rectangle by rectangle.  The messages sent up are charged.
        # guard: requests cost the bytes that go up
        self.messages += max(count, (len(up) - before) // _MESSAGE_BYTES)
        return data[pos:]

    def _turn(self, end: float) -> float:
        """Return when the turn ends, by the stopwatch.

        0 if it is over or a queue is full.
        """
        # guard: long answers pause reading
        if len(self.up.data) > ENOUGH or len(self.down.data) > ENOUGH:
            return 0.0
        now = self.machine.stopwatch()
        if end == _NEW_TURN:
            return now + limits.WAYLAND_TURN_SECONDS
        return end if now <= end else 0.0

    def _unknown_request(self, oid: int, opcode: int) -> ProtocolFault:
        """A request of an object that is not there, or that it does not have."""
        obj = self.by_client.get(oid)
        if obj is None:
            return ProtocolFault(1, wire.INVALID_OBJECT, f"invalid object {oid}")
        return wire.bad_message(oid, f"{obj.interface} has no request {opcode}")

    def from_server(self, data: bytes, fds: Sequence[Fd], now: float) -> None:
        """Handle bytes and descriptors of the compositor; sets ``fault`` on errors.

        A fault is set, not raised: UpstreamError for bytes that are not Wayland.
        Earlier requests of the client can lead to an internal error here, too.
        """
        if fds:
            self._server_fds.extend(fds)
        if self.fault is not None:
            return
        self.now = now
        try:
            data = self._server_rest + data if self._server_rest else data
            self._server_rest = self._read_server(data)
        except (UpstreamError, ProtocolFault) as error:
            self.fail(error)
        except struct.error as error:
            self.fail(UpstreamError(f"the compositor sent a short message: {error}"))
        except Exception as error:  # noqa: BLE001 - one door: see internal
            self.fail(internal(error))

    def _read_server(self, data: bytes) -> bytes:
        objects = self.by_server
        unpack = wire.HEADER.unpack_from
        pos, end = 0, len(data)
        last = end - wire.HEADER.size
        while pos <= last:
            sid, opcode, size = unpack(data, pos)
            if size < 8:
                raise UpstreamError(f"the compositor sent a message of {size} bytes")
            if pos + size > end:
                break
            try:
                obj = objects[sid]
                handler = obj.events[opcode]
            except LookupError:
                raise UpstreamError(
                    f"the compositor sent event {opcode} of unknown object {sid}"
                ) from None
            handler(self, obj, data, pos, size)
            pos += size
        if self.hands.refocused:
            # After all that came at once: a keyboard leaves one window of the
            # client's and enters another in two messages.
            self.hands.refocused = False
            # guard: grabs end with the keyboard
            popups.follow_focus(self)
        if self.rescreened:
            # After all that came at once, too: mode and scale are two messages.
            self.rescreened = False
            # guard: windows follow a change of screens
            screen_change.follow_screens(self)
        self.run_late()
        if self.answered:
            # guard: a frame counts after all that came with it
            after_frames(self)
        return data[pos:]

    @override
    def fail(self, error: Exception) -> None:
        """End the connection, with the reason in an error event of the protocol."""
        self.fault = error
        if isinstance(error, ProtocolFault):
            object_id, code = error.object_id, error.code
            if object_id not in self.by_client:
                object_id, code = 1, wire.INVALID_OBJECT
            text = printable(str(error), 200)
        elif isinstance(error, RefusalError):
            object_id, code = error.object_id, error.code
            text = "the compositor rejected a request"
        else:
            object_id, code = 1, wire.IMPLEMENTATION
            text = "the connection to the compositor failed"
            if isinstance(error, RefusedError):
                text = printable(error.message, 200)
        self.down.data += emit.display_error(1, object_id, code, text.encode())

    @override
    def upstream_error(
        self, obj: ProtocolObject | None, code: int, untrusted_text: bytes
    ) -> None:
        """Raise the compositor's error as one about the client's object (RefusalError).

        Its text names the compositor's ids and is for our log only.
        """
        interface = obj.interface if obj is not None else "an object"
        where = obj.cid if obj is not None else 0
        raise RefusalError(
            f"the compositor rejected a request on {interface}: {printable(untrusted_text, 200)}",
            object_id=where or 1,
            code=code if where else wire.IMPLEMENTATION,
        )

    # -- descriptors --------------------------------------------------------------------

    @override
    def take_client_fd(self, obj: ProtocolObject) -> Fd:
        """The next descriptor, which belongs to the message being read."""
        if not self._client_fds:
            # guard: no message without its descriptor
            raise wire.bad_message(obj.cid, "the message has no descriptor")
        return self._client_fds.popleft()

    @property
    def unclaimed(self) -> int:
        """Descriptors of the client that no message has taken yet."""
        return len(self._client_fds)

    @override
    def take_server_fd(self) -> Fd:
        """The next descriptor from the compositor.  Raises UpstreamError."""
        if not self._server_fds:
            raise UpstreamError("the compositor sent a message without its descriptor")
        return self._server_fds.popleft()

    # -- our surfaces ------------------------------------------------------------------

    @override
    def own_surface(self, alias: Surface | None) -> OwnSurface:
        """Create a surface of the filter's own at the compositor."""
        surface = OwnSurface("wl_surface", 4)
        surface.alias = alias
        self.own("wl_surface", surface)
        surface.events = dispatch.own_events("wl_surface", _OWN_SURFACE_EVENTS)
        self.up.data += emit.create_surface(self.compositor, surface.sid)
        return surface

    # -- globals ------------------------------------------------------------------------------

    @override
    def host_name_of(self, interface: str) -> int | None:
        """See ``ClientState``."""
        host = self.globals.host.items()
        return next((name for name, (what, _) in host if what == interface), None)

    def host_global(self, name: int, interface: str, version: int) -> None:
        """Handle a new global: watch seats and outputs, offer others.

        Raises UpstreamError.
        """
        if len(self.globals.host) >= limits.WAYLAND_OBJECTS:
            raise UpstreamError("the compositor offers too many globals")
        entry = self.globals.add(name, interface, version)
        if interface == "wl_output" and self.ready:
            self._watch_output(name, version)
        elif interface == "wl_seat" and self.ready:
            self.hands.add_seat(name, version)
        if entry is not None:
            self._tell_global(entry)

    def _tell_global(self, entry: Advertised) -> None:
        for registry in self.registries.values():
            self.down.data += told(registry, entry)

    def host_global_remove(self, name: int) -> None:
        """Handle the removal of a compositor's global; remove it for the client."""
        screen = self.screens.pop(name, None)
        if screen is not None:
            screen.width, screen.logical = 0, None
            self.rescreened = True
        make_inert(self, name)
        entry = self.globals.remove(name)
        if entry is not None:
            for registry in self.registries.values():
                self.down.data += emit.registry_remove(registry.cid, entry.name)

    @override
    def screen(self) -> tuple[int, int]:
        """Logical size that no popup may exceed."""
        return outputs.largest(list(self.screens.values()))

    # -- focus, serials, counters -----------------------------------------------------------------

    @override
    def dismiss_menus(self) -> None:
        """The user has pressed outside of this client's windows."""
        if self.fault is None and popups.dismiss_grabs(self):
            self.wake()

    @override
    def selection_changed(self, kind: str) -> None:
        """Offer the sandbox's selection again on this client's devices.

        A client that does not read is not notified now, but when it next gets the
        focus. Never raises: the change comes from another application, which must not
        get an error of this one.
        """
        if self.fault is not None:
            return
        try:
            for device in self.devices:
                if self.crowded:
                    break
                if device.kind == kind:
                    selection.tell(self, device)
        except ProtocolFault as fault:
            self.fail(fault)
        self.wake()

    @override
    def change_look(self, rules: WindowRules) -> None:
        """Show all windows of this client in the colour and words of other rules.

        Never raises: the change is the record's, not of something that the client did.
        """
        former, before = self._labels, self.rules
        super().change_look(rules)
        if self.fault is not None:
            return
        try:
            window_state.follow_look(self, before)
        except ProtocolFault as fault:
            self.fail(fault)
        except Exception as error:  # noqa: BLE001 - one door: see internal
            self.fail(internal(error))
        for picture in former.values():
            self.up.data += emit.buffer_destroy(picture.buffer)

    @override
    def show_again(self, surface: Surface) -> None:
        """Lay out and show a tree without a commit of the client's."""
        commit.relayout(self, surface)


def _registry_global(
    core: WaylandFilter,
    _registry: ProtocolObject,
    name: int,
    interface: bytes,
    version: int,
) -> None:
    core.host_global(name, interface.decode(), version)


def _registry_remove(core: WaylandFilter, _registry: ProtocolObject, name: int) -> None:
    core.host_global_remove(name)


def _first_sync(core: WaylandFilter, _callback: ProtocolObject, _serial: int) -> None:
    core.begin()


_REGISTRY_EVENTS: dispatch.Handlers = {
    "global": _registry_global,
    "global_remove": _registry_remove,
}
_OWN_SURFACE_EVENTS: dispatch.Handlers = {
    "enter": surfaces.own_enter,
    "leave": surfaces.own_leave,
}
_SYNC_EVENTS: dispatch.Handlers = {"done": _first_sync}
