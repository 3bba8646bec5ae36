"""Globals of the compositor that a sandbox may use: a verdict for every known one.

This table is the whole decision.  A global that is not in it is not
advertised, so a newer compositor or library alone exposes nothing.
``version`` is the frozen baseline: the highest version that the filter
understands message by message, whatever the compositor offers.

``risk`` is the sentence that policy tools show to the user who decides.

The worker applies the table; the viewer compiles a record's exceptions from it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class GlobalVerdict(enum.Enum):
    """Treatment of a global that the compositor offers."""

    YES = "yes"
    """Advertised; its messages pass checked, most of them rewritten."""
    OPTION = "option"
    """Advertised where the sandbox's record names it, hidden otherwise."""
    NO = "no"
    """Never advertised: the filter has no safe form of it."""


@dataclass(frozen=True, slots=True)
class Global:
    """One row.  ``version`` is 0 if it is never advertised.

    ``local`` marks globals that the filter answers itself: the compositor's global
    may be missing or older, and none of its objects are the compositor's.
    """

    name: str
    verdict: GlobalVerdict
    version: int
    risk: str
    local: bool = False


def _yes(name: str, version: int, risk: str, *, local: bool = False) -> Global:
    return Global(name, GlobalVerdict.YES, version, risk, local)


def _option(name: str, version: int, risk: str) -> Global:
    return Global(name, GlobalVerdict.OPTION, version, risk)


def _no(name: str, risk: str) -> Global:
    return Global(name, GlobalVerdict.NO, 0, risk)


DMABUF = "zwp_linux_dmabuf_v1"
"""Memory of the graphics driver as pictures; never on waypipe's wire."""

_ROWS = (
    # -- what every application needs ------------------------------------------
    _yes("wl_compositor", 6, "Draws surfaces; each one is cropped to its frame."),
    _yes("wl_subcompositor", 1, "Nests surfaces; they are cropped with their window."),
    _yes("wl_shm", 1, "Shares memory for pixels; each file is checked and limited."),
    _yes("wl_seat", 9, "Receives keyboard and pointer input while it has the focus."),
    _yes("wl_output", 4, "Learns the size and scale of screens, not make or model."),
    _yes(
        "xdg_wm_base", 6, "Opens windows and menus; each gets a frame drawn by Vitrail."
    ),
    _yes(
        "wl_data_device_manager",
        3,
        "Copies, pastes and drags only among the sandbox's windows.",
        local=True,
    ),
    _yes(
        "zwp_primary_selection_device_manager_v1",
        1,
        "Pastes with a middle click only among the sandbox's windows.",
        local=True,
    ),
    _yes("wp_viewporter", 1, "Scales and crops its pixels, within the frame's crop."),
    _yes("wl_fixes", 1, "Destroys its registry; harmless.", local=True),
    # -- common, bound to its surfaces --------------------------------------
    _yes("wp_single_pixel_buffer_manager_v1", 1, "One-pixel buffers; harmless."),
    _yes("wp_fractional_scale_manager_v1", 1, "Learns the scale of its windows."),
    _yes("wp_presentation", 1, "Learns when its frames were shown (a fine clock)."),
    _yes("wp_cursor_shape_manager_v1", 1, "Selects a pointer shape from a fixed list."),
    _yes("zwp_pointer_gestures_v1", 3, "Receives touchpad gestures over its windows."),
    _yes(
        "zwp_relative_pointer_manager_v1",
        1,
        "Receives raw pointer motion over its windows.",
    ),
    _yes(
        "zwp_tablet_manager_v2",
        1,
        "Receives tablet pen events over its windows; make and serial number are hidden.",
    ),
    _yes(
        "zxdg_output_manager_v1", 3, "Learns the layout of screens; names are hidden."
    ),
    _yes(
        "zxdg_decoration_manager_v1",
        1,
        "Negotiates who draws the title bar inside the frame.",
    ),
    _yes(
        "org_kde_kwin_server_decoration_manager",
        1,
        "As zxdg_decoration_manager_v1, for GTK.",
    ),
    _yes("xdg_activation_v1", 1, "Requests attention after input to its window."),
    _yes(
        "zxdg_exporter_v2",
        1,
        "Exports a window as a parent for other programs of the sandbox.",
        local=True,
    ),
    _yes(
        "zxdg_importer_v2",
        1,
        "Places windows over another window of the sandbox.",
        local=True,
    ),
    _yes("zxdg_exporter_v1", 1, "As zxdg_exporter_v2, for GTK 3.", local=True),
    _yes("zxdg_importer_v1", 1, "As zxdg_importer_v2, for GTK 3.", local=True),
    _yes("xdg_wm_dialog_v1", 1, "Marks a dialog of its window as modal."),
    _yes(
        "zwp_text_input_manager_v3",
        1,
        "Exchanges typed text with the input method while focused.",
    ),
    _yes("xdg_system_bell_v1", 1, "Rings the bell, at most a few times a second."),
    _yes(
        "xdg_toplevel_icon_manager_v1",
        1,
        "Sets the window's icon, inside a border drawn by Vitrail.",
    ),
    _yes("wp_content_type_manager_v1", 1, "Declares its content as a video or a game."),
    _yes(
        "wp_fifo_manager_v1",
        1,
        "Shows each buffer for one refresh; at most two wait, with their frame.",
    ),
    # -- by record only --------------------------------------------------------------
    _option(
        "zwp_idle_inhibit_manager_v1",
        1,
        "Keeps the screen from locking while its window is visible.",
    ),
    _option(
        "zwp_pointer_constraints_v1",
        1,
        "Locks the pointer, or confines it to its window, until the focus changes.",
    ),
    _option(
        "zwp_keyboard_shortcuts_inhibit_manager_v1",
        1,
        "Receives the desktop's key bindings, including those for copy and paste.",
    ),
    _option(
        DMABUF,
        5,
        "Passes GPU buffers to the compositor's graphics driver; each buffer is checked and counted.",
    ),
    # -- surface state that is not yet held like a buffer (a partly applied
    #    commit would tear the frame) --------------------------------------------------
    _no(
        "wp_alpha_modifier_v1",
        "Sets state outside the filter's commits; translucent windows can imitate overlays.",
    ),
    _no(
        "wp_color_manager_v1",
        "Makes the compositor parse colour profiles; HDR content can outshine other windows.",
    ),
    _no(
        "wp_color_representation_manager_v1", "Sets state outside the filter's commits."
    ),
    _no(
        "wp_commit_timing_manager_v1",
        "Delays buffers, and their frame, without a limit.",
    ),
    _no("wp_tearing_control_manager_v1", "Sets state outside the filter's commits."),
    _no(
        "wp_linux_drm_syncobj_manager_v1",
        "Can stall the compositor with kernel fences.",
    ),
    _no(
        "zwp_linux_explicit_synchronization_v1",
        "Can stall the compositor with kernel fences.",
    ),
    # -- input beyond its focus ------------------------------------------------------
    _no("wp_pointer_warp_v1", "Moves the user's pointer."),
    _no("zwp_input_timestamps_manager_v1", "Receives input times finer than needed."),
    _no("zwp_tablet_manager_v1", "Legacy tablet protocol."),
    _no(
        "zwp_text_input_manager_v1",
        "Uses a legacy input method protocol, which does not depend on the focus.",
    ),
    _no("zwp_input_method_v1", "Reads and writes text typed into other applications."),
    _no("zwp_input_panel_v1", "Shows an unframed surface over other windows."),
    _no("zwp_xwayland_keyboard_grab_manager_v1", "Grabs the keyboard."),
    _no("ext_transient_seat_manager_v1", "Makes new seats."),
    # -- clipboard without focus, screen contents, other windows --------------------------
    _no("ext_data_control_manager_v1", "Reads the clipboard without a user's action."),
    _no("ext_image_copy_capture_manager_v1", "Captures the screen."),
    _no("ext_output_image_capture_source_manager_v1", "Captures the screen."),
    _no(
        "ext_foreign_toplevel_image_capture_source_manager_v1",
        "Captures other windows.",
    ),
    _no("ext_foreign_toplevel_list_v1", "Lists other windows."),
    _no("ext_workspace_manager_v1", "Lists and switches workspaces."),
    _no("ext_idle_notifier_v1", "Learns when the user is idle."),
    _no("ext_background_effect_manager_v1", "Blurs the background of a window."),
    # -- the whole screen, sessions, hardware ---------------------------------------------
    _no("ext_session_lock_manager_v1", "Locks the session and draws over everything."),
    _no("wp_drm_lease_device_v1", "Takes over screens."),
    _no(
        "wp_security_context_manager_v1",
        "Opens further connections; only the broker uses it.",
    ),
    _no("zwp_fullscreen_shell_v1", "Covers a whole screen without a frame."),
    _no("wl_shell", "Opens legacy windows without a frame."),
    _no("xdg_shell", "Opens legacy windows without a frame."),
    _no("zxdg_shell_v6", "Opens legacy windows without a frame."),
    _no("xwayland_shell_v1", "Serves only the compositor's X server."),
    # -- links between clients -----------------------------------------------------------------
    _no(
        "xdg_session_manager_v1",
        "Restores windows by names shared with other sandboxes.",
    ),
    _no(
        "xdg_toplevel_drag_manager_v1",
        "Moves windows during a drag, at times without a frame.",
    ),
    _no("xdg_toplevel_tag_manager_v1", "Names windows for compositor rules."),
)

GLOBALS: Mapping[str, Global] = MappingProxyType({row.name: row for row in _ROWS})
"""Interface name to its row."""

OPTIONS = frozenset(r.name for r in _ROWS if r.verdict is GlobalVerdict.OPTION)
"""Globals that a sandbox's record may allow in addition."""


def advertised_version(
    name: str, offered: int, allowed: frozenset[str] = frozenset()
) -> int:
    """Return the version to advertise, or 0 to hide the global.

    ``offered`` is the compositor's version, ``allowed`` the options that the
    sandbox's record grants.
    """
    row = GLOBALS.get(name)
    if row is None or row.verdict is GlobalVerdict.NO:
        return 0
    if row.verdict is GlobalVerdict.OPTION and name not in allowed:
        return 0
    # guard: frozen versions
    return row.version if row.local else min(row.version, offered)
