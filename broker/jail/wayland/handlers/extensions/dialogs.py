"""xdg_wm_dialog_v1: a window that is a dialog, and blocks the one below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.jail.wayland import canonical
from broker.jail.wayland.model import Toplevel
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_DIALOGS, _DIALOG = "xdg_wm_dialog_v1", "xdg_dialog_v1"


class WindowDialog(ProtocolObject):
    """An xdg_dialog_v1 of a window."""

    __slots__ = ("toplevel",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.toplevel: Toplevel | None = None


def get_dialog(
    core: ClientState, manager: ProtocolObject, new_id: int, toplevel: Toplevel
) -> None:
    """Create the dialog object of a window."""
    made = core.make(new_id, _DIALOG, manager.version, server=False)
    assert isinstance(made, WindowDialog)
    made.toplevel = toplevel

    def send() -> None:
        if not (made.dead or manager.dead):
            sid = core.give_sid(made)
            core.up.data += _get_dialog(manager.sid, sid, toplevel.sid)

    canonical.submit(toplevel, canonical.GET_DIALOG, send)


_get_dialog = emit.request(_DIALOGS, "get_xdg_dialog")


def _modal(name: str) -> Callable[..., None]:
    """Return the handler that submits a request about the dialog's window."""
    write = emit.request(_DIALOG, name)

    def step(core: ClientState, dialog: WindowDialog) -> None:
        def send() -> None:
            if dialog.sid and not dialog.dead:
                core.up.data += write(dialog.sid)

        # guard: a dialog ends with its window
        if dialog.toplevel is not None:
            canonical.submit(dialog.toplevel, (_DIALOG, name), send)

    return step


REQUESTS: Rules = {
    (_DIALOGS, "destroy"): FORWARD,
    (_DIALOGS, "get_xdg_dialog"): get_dialog,
    (_DIALOG, "destroy"): FORWARD,
    (_DIALOG, "set_modal"): _modal("set_modal"),
    (_DIALOG, "unset_modal"): _modal("unset_modal"),
}
EVENTS: Rules = {}
CLASSES: Classes = {_DIALOG: WindowDialog}
