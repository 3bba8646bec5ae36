"""A compositor that is all rules: it checks, double-buffers and lays out.

It reads what a filter sends up, refuses (AssertionError) what a compositor
would kill a connection for, and knows at every moment which rectangle of the
screen each surface shows.  No pixels; properties that are judged on real compositors too
(tests/attack) is judged here ten thousand times faster.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from broker.jail.wayland.filter import WaylandFilter
from broker.jail.wayland.protocol import emit, signatures, wire
from tests.kit.wayland.model_extensions import ExtensionRules
from tests.kit.wayland.model_grammar import GrammarRules

GLOBALS = [
    ("wl_compositor", 5),
    ("wl_subcompositor", 1),
    ("wl_shm", 1),
    ("wl_seat", 8),
    ("wl_output", 4),
    ("xdg_wm_base", 5),
    ("wl_data_device_manager", 3),
    ("wp_viewporter", 1),
    ("wp_presentation", 1),
    ("wp_single_pixel_buffer_manager_v1", 1),
    ("xdg_activation_v1", 1),
    ("zxdg_output_manager_v1", 3),
    ("zwlr_layer_shell_v1", 4),
    ("zwp_linux_dmabuf_v1", 3),
    ("zwp_text_input_manager_v3", 1),
    ("wp_cursor_shape_manager_v1", 1),
    ("zwp_idle_inhibit_manager_v1", 1),
    ("zwp_pointer_constraints_v1", 1),
    ("zwp_keyboard_shortcuts_inhibit_manager_v1", 1),
    ("xdg_toplevel_icon_manager_v1", 1),
    ("wp_content_type_manager_v1", 1),
    ("wp_fifo_manager_v1", 1),
    ("zwp_tablet_manager_v2", 1),
]


@dataclass(eq=False)
class Thing:
    """Any object; ``state`` is what its requests set."""

    oid: int
    kind: str
    version: int = 1
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Shown(Thing):
    """A wl_surface with its three stages."""

    pending: dict[str, Any] = field(default_factory=dict)
    cached: dict[str, Any] = field(default_factory=dict)
    now: dict[str, Any] = field(default_factory=dict)
    parent: Shown | None = None
    children: list[Shown] = field(default_factory=list)
    spot: tuple[int, int] = (0, 0)
    next_spot: tuple[int, int] | None = None
    xdg: Thing | None = None
    role: str = ""
    alone: bool = False
    """Its next commits do not wait for its parent's."""
    waits: bool = False
    """The last commit is not applied before the one of the parent."""

    def size(self) -> tuple[int, int] | None:
        """Logical size, by the rules of wl_surface and wp_viewport."""
        buffer = self.now.get("buffer")
        if buffer is None:
            return None
        w, h = buffer.state["size"]
        if self.now.get("transform", 0) & 1:
            w, h = h, w
        scale = self.now.get("scale", 1)
        w, h = w // scale, h // scale
        source, dest = self.now.get("source"), self.now.get("dest")
        if source is not None:
            x, y, sw, sh = source
            assert x + sw <= w * 256, f"source outside the buffer: {source} of {w}x{h}"
            assert y + sh <= h * 256, f"source outside the buffer: {source} of {w}x{h}"
            if dest is None:
                assert sw % 256 == 0, "a fractional source without destination"
                assert sh % 256 == 0, "a fractional source without destination"
                w, h = sw // 256, sh // 256
        return dest if dest is not None else (w, h)


class Model(GrammarRules, ExtensionRules):
    """``out`` collects the compositor's events; ``requests`` the requests to it."""

    def __init__(self, offers: list[tuple[str, int]] | None = None) -> None:
        self.new_thing = Thing
        self.out = bytearray()
        self.things: dict[int, Thing] = {}
        self.next_id = 2
        self.freed: set[int] = set()
        self.confirms = True
        """Whether it says which ids are free; if not, each new one is the next."""
        self.offers = dict(enumerate(GLOBALS if offers is None else offers, 1))
        self.display = self._add(1, "wl_display", 1)
        self.requests: list[tuple[str, str, list[Any]]] = []
        self.serial = 100
        self.fds = self.out_fds = 0
        self.registries: list[int] = []
        self.commits = 0
        self.on_root_commit: Any = None
        self.server_id = 0xFF000000

    # -- plumbing ----------------------------------------------------------------

    def _add(self, oid: int, kind: str, version: int) -> Thing:
        if oid != 1:
            assert oid == self.next_id or oid in self.freed, (
                f"new id {oid} leaves a gap ({self.next_id})"
            )
            if oid == self.next_id:
                self.next_id += 1
            self.freed.discard(oid)
        cls = Shown if kind == "wl_surface" else Thing
        thing = cls(oid, kind, version)
        assert oid not in self.things
        self.things[oid] = thing
        return thing

    def tell(self, thing: Thing, name: str, *args: Any) -> None:
        """Say an event."""
        message = signatures.event(thing.kind, name)
        values = [a.oid if isinstance(a, Thing) else a for a in args]
        if name == "capabilities":
            thing.state["capabilities"] = args[0]
        self.out += emit.packer(message)(thing.oid, *values)

    def _remove(self, thing: Thing) -> None:
        del self.things[thing.oid]
        if thing.oid < 0xFF000000 and self.confirms:
            self.freed.add(thing.oid)
            self.tell(self.display, "delete_id", thing.oid)

    def feed(self, data: bytes, fds: int = 0) -> None:
        """Take whole messages."""
        self.fds += fds
        pos = 0
        while pos < len(data):
            oid, opcode, size = wire.HEADER.unpack_from(data, pos)
            assert size <= wire.MAX_MESSAGE
            thing = self.things.get(oid)
            assert thing is not None, f"a request to the unknown object {oid}"
            message = signatures.requests_of(thing.kind)[opcode]
            assert message.since <= thing.version, (
                f"{message} is newer than version {thing.version}"
            )
            args = wire.decode(message, data, pos + 8, pos + size)
            self._request(thing, message, args)
            pos += size
        assert pos == len(data)

    def _request(
        self, thing: Thing, message: signatures.MessageSignature, args: list[Any]
    ) -> None:
        for i, argument in enumerate(message.args):
            if argument.kind == "o":
                assert args[i] in self.things or (argument.nullable and not args[i]), (
                    f"{message}: object {args[i]}"
                )
                other = self.things.get(args[i])
                if other is not None and argument.interface:
                    assert other.kind == argument.interface, f"{message}: {other.kind}"
                args[i] = other
            elif argument.kind == "n" and argument.interface:
                args[i] = self._add(args[i], argument.interface, thing.version)
            elif argument.kind == "h":
                assert self.fds > 0, f"{message} without its descriptor"
                self.fds -= 1
        self.requests.append((thing.kind, message.name, args))
        rule = getattr(self, f"{thing.kind}_{message.name}", None)
        if rule is not None:
            rule(thing, *args)
        elif message.name in {"destroy", "release"}:
            self._remove(thing)

    # -- display, registry ------------------------------------------------------------

    def wl_display_sync(self, _display: Thing, callback: Thing) -> None:
        self.tell(callback, "done", 0)
        self._remove(callback)

    def wl_display_get_registry(self, _display: Thing, registry: Thing) -> None:
        self.registries.append(registry.oid)
        for name, (interface, version) in self.offers.items():
            self.tell(registry, "global", name, interface.encode(), version)

    def wl_registry_bind(
        self, _registry: Thing, name: int, interface: bytes, version: int, oid: int
    ) -> None:
        kind, offered = self.offers[name]
        assert kind.encode() == interface
        assert 1 <= version <= offered
        thing = self._add(oid, kind, version)
        if kind == "wl_output":
            self.tell(
                thing, "geometry", 0, 0, 300, 200, 0, b"Secret Make", b"Secret Model", 0
            )
            self.tell(thing, "mode", 3, 1280, 800, 60000)
            if version >= 4:
                self.tell(thing, "name", b"DP-7")
                self.tell(thing, "description", b"Secret Make 9000 (DP-7)")
            if version >= 2:
                self.tell(thing, "scale", 1)
                self.tell(thing, "done")
        elif kind == "wl_seat":
            self.tell(thing, "capabilities", 7)
        self.bound(thing)

    # -- buffers ------------------------------------------------------------------------

    def wl_shm_create_pool(
        self, _shm: Thing, pool: Thing, _fd: None, size: int
    ) -> None:
        assert size > 0
        pool.state["size"] = size

    def wl_shm_pool_resize(self, _pool: Thing, _size: int) -> None:
        raise AssertionError("renderers may remember where a pool was")

    def wl_shm_pool_create_buffer(
        self,
        pool: Thing,
        buffer: Thing,
        offset: int,
        w: int,
        h: int,
        stride: int,
        _form: int,
    ) -> None:
        assert offset >= 0
        assert w > 0
        assert h > 0
        assert stride >= w
        assert offset + stride * h <= pool.state["size"]
        buffer.state["size"] = (w, h)
        buffer.state["pool"] = pool

    def wp_single_pixel_buffer_manager_v1_create_u32_rgba_buffer(
        self, _m: Thing, buffer: Thing, *_: int
    ) -> None:
        buffer.state["size"] = (1, 1)

    # -- surfaces --------------------------------------------------------------------------

    def wl_surface_attach(
        self, surface: Shown, buffer: Thing | None, dx: int, dy: int
    ) -> None:
        assert surface.version < 5 or (dx, dy) == (0, 0)
        if surface.role not in {"cursor", "icon"}:
            assert (dx, dy) == (0, 0), (
                "an offset on a surface that is neither cursor nor icon"
            )
        surface.pending["buffer"] = buffer

    def wl_surface_set_buffer_scale(self, surface: Shown, scale: int) -> None:
        assert scale > 0
        surface.pending["scale"] = scale

    def wl_surface_set_buffer_transform(self, surface: Shown, transform: int) -> None:
        assert 0 <= transform <= 7
        surface.pending["transform"] = transform

    def wl_surface_frame(self, surface: Shown, callback: Thing) -> None:
        surface.pending.setdefault("frames", []).append(callback)

    def wp_presentation_feedback(self, _p: Thing, surface: Shown, made: Thing) -> None:
        surface.pending.setdefault("feedbacks", []).append(made)

    def wl_surface_set_input_region(self, surface: Shown, region: Thing | None) -> None:
        surface.pending["input"] = (
            None if region is None else list(region.state.get("ops", []))
        )

    def wl_region_add(self, region: Thing, *rect: int) -> None:
        region.state.setdefault("ops", []).append(("add", *rect))

    def wl_region_subtract(self, region: Thing, *rect: int) -> None:
        region.state.setdefault("ops", []).append(("subtract", *rect))

    def wp_viewporter_get_viewport(
        self, _v: Thing, viewport: Thing, surface: Shown
    ) -> None:
        assert not surface.state.get("viewport"), "two viewports on one surface"
        surface.state["viewport"] = viewport
        viewport.state["surface"] = surface

    def wp_viewport_set_source(
        self, viewport: Thing, x: int, y: int, w: int, h: int
    ) -> None:
        unset = (x, y, w, h) == (-256, -256, -256, -256)
        assert unset or (x >= 0 and y >= 0 and w > 0 and h > 0)
        viewport.state["surface"].pending["source"] = None if unset else (x, y, w, h)

    def wp_viewport_set_destination(self, viewport: Thing, w: int, h: int) -> None:
        unset = (w, h) == (-1, -1)
        assert unset or (w > 0 and h > 0)
        viewport.state["surface"].pending["dest"] = None if unset else (w, h)

    def wp_viewport_destroy(self, viewport: Thing) -> None:
        surface = viewport.state["surface"]
        surface.state["viewport"] = None
        surface.pending["source"] = surface.pending["dest"] = None
        self._remove(viewport)

    def wl_subcompositor_get_subsurface(
        self, _s: Thing, sub: Thing, surface: Shown, parent: Shown
    ) -> None:
        assert surface.role in {"", "sub"}, (
            f"a second role for {surface.oid}: {surface.role}"
        )
        assert surface.parent is None
        top: Shown | None = parent
        while top is not None:
            assert top is not surface, "a loop"
            top = top.parent
        surface.role, surface.parent = "sub", parent
        sub.state["surface"] = surface
        parent.children.append(surface)
        surface.spot, surface.next_spot = (0, 0), None

    def wl_subsurface_set_position(self, sub: Thing, x: int, y: int) -> None:
        if (surface := sub.state["surface"]) is not None:
            surface.next_spot = (x, y)

    def wl_subsurface_set_desync(self, sub: Thing) -> None:
        surface = sub.state["surface"]
        menu = surface.parent is not None and self._is_old_popup(surface.parent)
        assert menu, "a subsurface of ours must stay synchronised"
        assert not surface.cached, "and what waits must come with its frame"
        surface.alone = True

    def wl_subsurface_set_sync(self, sub: Thing) -> None:
        sub.state["surface"].alone = False

    def _is_old_popup(self, root: Shown) -> bool:
        role = root.xdg.state.get("role") if root.xdg is not None else None
        return role is not None and role.kind == "xdg_popup" and role.version < 3

    def _restack(self, sub: Thing, sibling: Shown, above: bool) -> None:
        surface = sub.state["surface"]
        if surface is None or surface.parent is None:
            return
        assert sibling is surface.parent or sibling.parent is surface.parent
        order = surface.parent.children
        order.remove(surface)
        at = order.index(sibling) + above if sibling in order else 0
        order.insert(at, surface)

    def wl_subsurface_place_above(self, sub: Thing, sibling: Shown) -> None:
        self._restack(sub, sibling, above=True)

    def wl_subsurface_place_below(self, sub: Thing, sibling: Shown) -> None:
        self._restack(sub, sibling, above=False)

    def wl_subsurface_destroy(self, sub: Thing) -> None:
        surface = sub.state["surface"]
        if surface is not None and surface.parent is not None:
            surface.parent.children.remove(surface)
            surface.parent = None
        self._remove(sub)

    def wl_surface_destroy(self, surface: Shown) -> None:
        assert surface.xdg is None, "a surface destroyed before its xdg_surface"
        for thing in self.things.values():
            if thing.kind == "wl_subsurface" and thing.state["surface"] is surface:
                thing.state["surface"] = None
        if surface.parent is not None:
            surface.parent.children.remove(surface)
        for child in surface.children:
            child.parent = None
        self._remove(surface)

    def wl_surface_commit(self, surface: Shown) -> None:
        if surface.xdg is not None:
            role = surface.xdg.state.get("role")
            assert role is not None, "a commit of an xdg_surface without its role"
            if surface.pending.get("buffer") is not None:
                assert surface.xdg.state.get("acked"), "a buffer before the first ack"
            elif not surface.xdg.state.get("first"):
                surface.xdg.state["first"] = True
                self.configure(surface.xdg)
        for name in ("frames", "feedbacks"):
            kept = surface.cached.get(name, []) + surface.pending.get(name, [])
            if kept:
                surface.pending[name] = kept
        surface.cached.update(surface.pending)
        surface.pending = {}
        surface.waits = True
        if surface.alone:
            before = surface.size()
            self._apply(surface)
            assert surface.size() == before, "a commit without the frame that fits it"
        elif surface.parent is None:
            assert not any(child.alone for child in surface.children)
            self._apply(surface)
            self.commits += 1
            if self.on_root_commit is not None:
                self.on_root_commit(surface)

    def _apply(self, surface: Shown) -> None:
        surface.waits = False
        frames = surface.cached.pop("frames", [])
        for made in surface.cached.pop("feedbacks", []):
            self.tell(made, "presented", 0, 0, 0, 0, 0, 0, 0)
            self._remove(made)
        if (
            "buffer" in surface.cached
            and surface.cached["buffer"] is None
            and surface.xdg
        ):
            surface.xdg.state.update(acked=False, first=False)
            role = surface.xdg.state.get("role")
            if role is not None and role.kind == "xdg_toplevel":
                self.unmap(role)
        surface.now.update(surface.cached)
        surface.cached = {}
        surface.size()
        for callback in frames:
            self.tell(callback, "done", 1)
            self._remove(callback)
        for child in surface.children:
            if child.next_spot is not None:
                child.spot, child.next_spot = child.next_spot, None
            self._apply(child)

    def require_no_waiting_commit(self) -> None:
        """Check that no commit waits: wlroots applies it when the surface ends."""
        for thing in self.things.values():
            if isinstance(thing, Shown) and thing.parent is not None:
                assert not thing.waits, f"a commit of {thing.oid} waits for a frame"

    # -- windows ---------------------------------------------------------------------------

    def xdg_wm_base_destroy(self, base: Thing) -> None:
        assert not any(
            t.kind == "xdg_surface" and t.state["base"] is base
            for t in self.things.values()
        )
        self._remove(base)

    def xdg_wm_base_get_xdg_surface(
        self, base: Thing, xdg: Thing, surface: Shown
    ) -> None:
        assert surface.role in {"", "xdg"}
        assert surface.now.get("buffer") is None
        surface.role, surface.xdg = "xdg", xdg
        xdg.state.update(surface=surface, base=base, serials=[])

    def xdg_surface_get_toplevel(self, xdg: Thing, top: Thing) -> None:
        assert xdg.state.get("role") is None
        xdg.state["role"] = top
        top.state["xdg"] = xdg

    def xdg_surface_get_popup(
        self, xdg: Thing, popup: Thing, parent: Thing | None, positioner: Thing
    ) -> None:
        assert xdg.state.get("role") is None
        assert parent is not None
        assert positioner.state.get("size")
        assert positioner.state.get("rect")
        xdg.state["role"] = popup
        popup.state.update(xdg=xdg, positioner=dict(positioner.state), parent=parent)

    def xdg_popup_reposition(self, popup: Thing, positioner: Thing, token: int) -> None:
        popup.state["positioner"] = dict(positioner.state)
        self.tell(popup, "repositioned", token)
        self.configure(popup.state["xdg"])

    def xdg_positioner_set_size(self, positioner: Thing, w: int, h: int) -> None:
        assert w > 0
        assert h > 0
        positioner.state["size"] = (w, h)

    def xdg_positioner_set_anchor_rect(self, positioner: Thing, *rect: int) -> None:
        assert rect[2] >= 0
        assert rect[3] >= 0
        positioner.state["rect"] = rect

    def xdg_positioner_set_offset(self, positioner: Thing, x: int, y: int) -> None:
        positioner.state["offset"] = (x, y)

    def xdg_positioner_set_anchor(self, positioner: Thing, anchor: int) -> None:
        positioner.state["anchor"] = anchor

    def xdg_positioner_set_gravity(self, positioner: Thing, gravity: int) -> None:
        positioner.state["gravity"] = gravity

    def xdg_positioner_set_constraint_adjustment(
        self, positioner: Thing, bits: int
    ) -> None:
        positioner.state["adjustment"] = bits

    def xdg_surface_set_window_geometry(
        self, xdg: Thing, x: int, y: int, w: int, h: int
    ) -> None:
        assert w > 0
        assert h > 0
        xdg.state["geometry"] = (x, y, w, h)

    def xdg_surface_ack_configure(self, xdg: Thing, serial: int) -> None:
        assert serial in xdg.state["serials"], (
            f"serial {serial} acknowledged out of turn"
        )
        del xdg.state["serials"][: xdg.state["serials"].index(serial) + 1]
        xdg.state["acked"] = True

    def xdg_toplevel_set_min_size(self, top: Thing, w: int, h: int) -> None:
        assert w >= 0
        assert h >= 0
        top.state["min"] = (w, h)

    def xdg_toplevel_set_title(self, top: Thing, title: bytes) -> None:
        top.state["title"] = title

    def xdg_toplevel_set_app_id(self, top: Thing, app_id: bytes) -> None:
        top.state["app_id"] = app_id

    def xdg_toplevel_destroy(self, top: Thing) -> None:
        if top.kind == "xdg_toplevel":
            self.unmap(top)
        top.state["xdg"].state["role"] = None
        top.state["xdg"].state.update(acked=False, first=False)
        top.state["xdg"].state["surface"].now["buffer"] = None
        self._remove(top)

    xdg_popup_destroy = xdg_toplevel_destroy

    def xdg_surface_destroy(self, xdg: Thing) -> None:
        assert xdg.state.get("role") is None, "xdg_surface destroyed before its role"
        xdg.state["surface"].xdg = None
        self._remove(xdg)

    def configure(
        self, xdg: Thing, w: int = 0, h: int = 0, states: tuple[int, ...] = ()
    ) -> int:
        """Send a configure sequence; return its serial."""
        role = xdg.state["role"]
        if role.kind == "xdg_toplevel":
            self.tell(role, "configure", w, h, struct.pack(f"={len(states)}I", *states))
        else:
            self.tell(role, "configure", 5, 6, *role.state["positioner"]["size"])
        self.serial += 1
        xdg.state["serials"].append(self.serial)
        self.tell(xdg, "configure", self.serial)
        return self.serial

    # -- other roles -----------------------------------------------------------------------

    def wl_pointer_set_cursor(
        self, _p: Thing, _serial: int, surface: Shown | None, x: int, y: int
    ) -> None:
        if surface is not None:
            assert surface.role in {"", "cursor"}
            surface.role = "cursor"
            surface.state["hot"] = (x, y)

    def wl_data_device_start_drag(
        self,
        _d: Thing,
        source: Thing | None,
        _origin: Thing,
        icon: Shown | None,
        _serial: int,
    ) -> None:
        assert source is not None, "a drag without a source"
        if icon is not None:
            assert icon.role in {"", "icon"}
            icon.role = "icon"

    def server_offer(self, device: Thing) -> Thing:
        """Our new offer on a device."""
        offer = Thing(self.server_id, "wl_data_offer", 3)
        self.server_id += 1
        self.things[offer.oid] = offer
        self.tell(device, "data_offer", offer)
        return offer

    # -- judging ---------------------------------------------------------------------------

    def roots(self) -> list[Shown]:
        """Mapped surfaces with a window role."""
        return [
            t
            for t in self.things.values()
            if isinstance(t, Shown) and t.xdg and t.now.get("buffer") is not None
        ]

    def rects(
        self, root: Shown, x: int = 0, y: int = 0
    ) -> list[tuple[int, int, int, int, int]]:
        """Everything that a tree shows: (surface id, x, y, width, height)."""
        size = root.size()
        if size is None:
            return []
        found = [(root.oid, x, y, *size)]
        for child in root.children:
            found += self.rects(child, x + child.spot[0], y + child.spot[1])
        return found


def connect(core: WaylandFilter, model: Model, now: float = 0.0) -> None:
    """Carry messages between the two until neither has anything to say."""
    while core.up.data or model.out:
        if core.up.data:
            data, fds = bytes(core.up.data), core.up.fd_count
            for fd in core.up.drain_fds():
                core.machine.close(fd)
            model.feed(data, fds)
            if core.fault is None:
                model.require_no_waiting_commit()
        if model.out:
            said, model.out = bytes(model.out), bytearray()
            told, model.out_fds = model.out_fds, 0
            core.from_server(said, [core.machine.fd() for _ in range(told)], now)
        if core.fault is not None:
            return
