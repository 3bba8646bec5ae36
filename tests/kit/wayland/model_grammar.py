"""Rules of the model compositor for canonical orders (``broker/jail/wayland/canonical.py``).

Real compositors take most of what is refused here, and end or freeze by the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.kit.wayland.model import Shown, Thing

POINTER, KEYBOARD, TOUCH = 1, 2, 4


class GrammarRules:
    """A part of ``Model``: what the filter sends of windows and seats in each state."""

    things: dict[int, Thing]

    def _remove(self, thing: Thing) -> None:
        raise NotImplementedError

    # -- windows ---------------------------------------------------------------------

    def is_mapped(self, top: Thing) -> bool:
        surface: Shown = top.state["xdg"].state["surface"]
        return surface.now.get("buffer") is not None

    def _require_not_unmapped(self, top: Thing) -> None:
        assert top.oid in self.things, "a request for a window that is destroyed"
        was = top.state.get("was_mapped", False)
        assert self.is_mapped(top) or not was, "a request for an unmapped window"

    def _of_kind(self, kind: str) -> list[Thing]:
        return [t for t in self.things.values() if t.kind == kind]

    def unmap(self, top: Thing) -> None:
        """Check that a window that is unmapped or destroyed has no relation."""
        assert top.state.get("parent") is None, "a window is unmapped with a parent"
        for child in self._of_kind("xdg_toplevel"):
            assert child.state.get("parent") is not top, "it is unmapped with a child"
        for exported in self._of_kind("zxdg_exported_v2"):
            assert exported.state.get("top") is not top, "it is unmapped and exported"
        top.state["was_mapped"] = True

    def xdg_toplevel_set_parent(self, top: Thing, parent: Thing | None) -> None:
        if parent is not None:
            assert self.is_mapped(parent), "a parent that is not mapped"
            assert top.state.get("parent") is None, "a second parent before none"
            step: Thing | None = parent
            while step is not None:
                assert step is not top, "a ring of parents"
                step = step.state.get("parent")
        top.state["parent"] = parent

    def zxdg_exporter_v2_export_toplevel(
        self, _exporter: Thing, exported: Thing, root: Shown
    ) -> None:
        top = root.xdg.state["role"] if root.xdg is not None else None
        assert top is not None
        assert self.is_mapped(top), "an export of a window that is not mapped"
        exported.state["top"] = top

    def zxdg_decoration_manager_v1_get_toplevel_decoration(
        self, _manager: Thing, decoration: Thing, top: Thing
    ) -> None:
        self._require_not_unmapped(top)
        assert not self.is_mapped(top), "unconfigured_buffer"
        decoration.state["top"] = top

    def zxdg_toplevel_decoration_v1_set_mode(self, decoration: Thing, *_: int) -> None:
        self._require_not_unmapped(decoration.state["top"])

    zxdg_toplevel_decoration_v1_unset_mode = zxdg_toplevel_decoration_v1_set_mode
    org_kde_kwin_server_decoration_request_mode = zxdg_toplevel_decoration_v1_set_mode

    def org_kde_kwin_server_decoration_manager_create(
        self, manager: Thing, decoration: Thing, root: Shown
    ) -> None:
        assert root.xdg is not None, "a decoration of what is no window"
        self.zxdg_decoration_manager_v1_get_toplevel_decoration(
            manager, decoration, root.xdg.state["role"]
        )

    def xdg_wm_dialog_v1_get_xdg_dialog(
        self, _manager: Thing, dialog: Thing, top: Thing
    ) -> None:
        self._require_not_unmapped(top)
        dialog.state["top"] = top

    def xdg_dialog_v1_set_modal(self, dialog: Thing) -> None:
        self._require_not_unmapped(dialog.state["top"])

    xdg_dialog_v1_unset_modal = xdg_dialog_v1_set_modal

    # -- seats -----------------------------------------------------------------------

    def _require_capability(self, seat: Thing, bits: int) -> None:
        assert seat.state.get("capabilities", 0) & bits, "a seat without the capability"

    def wl_seat_get_pointer(self, seat: Thing, _pointer: Thing) -> None:
        self._require_capability(seat, POINTER)

    def wl_seat_get_keyboard(self, seat: Thing, _keyboard: Thing) -> None:
        self._require_capability(seat, KEYBOARD)

    def wl_seat_get_touch(self, seat: Thing, _touch: Thing) -> None:
        self._require_capability(seat, TOUCH)

    def zwp_text_input_manager_v3_get_text_input(
        self, _manager: Thing, _text: Thing, seat: Thing
    ) -> None:
        self._require_capability(seat, POINTER | KEYBOARD | TOUCH)
