"""Rules of the model compositor for icons of windows (and other rarer protocols)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.kit.wayland.model import Thing


class ExtensionRules:
    """A part of ``Model``: what a strict compositor checks."""

    things: dict[int, Thing]
    server_id: int
    new_thing: Any
    """Makes a ``Thing`` by its id and kind."""

    def tell(self, thing: Thing, name: str, *args: object) -> None:
        raise NotImplementedError

    def _remove(self, thing: Thing) -> None:
        raise NotImplementedError

    def bound(self, thing: Thing) -> None:
        """A global was bound: send its first events."""
        if thing.kind == "xdg_toplevel_icon_manager_v1":
            self.tell(thing, "icon_size", 22)
            self.tell(thing, "done")

    def xdg_toplevel_icon_v1_add_buffer(
        self, icon: Thing, buffer: Thing, scale: int
    ) -> None:
        width, height = buffer.state["size"]
        assert "pool" in buffer.state, "an icon without shared memory"
        assert width == height, f"an icon of {width}x{height}"
        assert scale >= 1
        assert not icon.state.get("used"), "an icon that is in use was changed"
        icon.state["buffer"] = buffer
        buffer.state.setdefault("icons", []).append(icon)

    def xdg_toplevel_icon_manager_v1_set_icon(
        self, _manager: Thing, top: Thing, icon: Thing | None
    ) -> None:
        if icon is not None:
            icon.state["used"] = True
        top.state["icon"] = icon

    def xdg_toplevel_icon_v1_destroy(self, icon: Thing) -> None:
        if "buffer" in icon.state:
            icon.state["buffer"].state["icons"].remove(icon)
        self._remove(icon)

    def wp_content_type_manager_v1_get_surface_content_type(
        self, _manager: Thing, made: Thing, surface: Thing
    ) -> None:
        self._one(made, surface)

    def wp_content_type_v1_set_content_type(self, made: Thing, kind: int) -> None:
        assert kind <= 3
        surface = made.state["surface"]
        if surface.oid in self.things:
            surface.pending["content_type"] = kind

    def wp_fifo_manager_v1_get_fifo(
        self, _manager: Thing, made: Thing, surface: Thing
    ) -> None:
        self._one(made, surface)

    def wp_fifo_v1_set_barrier(self, made: Thing) -> None:
        assert made.state["surface"].oid in self.things

    wp_fifo_v1_wait_barrier = wp_fifo_v1_set_barrier

    def wp_fifo_v1_destroy(self, made: Thing) -> None:
        del made.state["surface"].state[made.kind]
        self._remove(made)

    def wp_content_type_v1_destroy(self, made: Thing) -> None:
        self.wp_fifo_v1_destroy(made)

    def server_made(self, by: Thing, event: str, kind: str) -> Thing:
        """A new object that the compositor names: a tablet, a tool, a pad."""
        made = self.new_thing(self.server_id, kind)
        self.server_id += 1
        self.things[made.oid] = made
        self.tell(by, event, made)
        return made

    def zwp_tablet_tool_v2_set_cursor(
        self, _tool: Thing, _serial: int, surface: Any, _x: int, _y: int
    ) -> None:
        if surface is not None:
            assert surface.role in {"", "cursor"}
            surface.role = "cursor"

    def _one(self, made: Thing, surface: Thing) -> None:
        assert made.kind not in surface.state, f"a second {made.kind} of a surface"
        surface.state[made.kind] = made
        made.state["surface"] = surface

    def wl_buffer_destroy(self, buffer: Thing) -> None:
        assert not buffer.state.get("icons"), "the buffer of an icon was destroyed"
        self._remove(buffer)
