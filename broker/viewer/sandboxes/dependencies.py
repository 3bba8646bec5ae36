"""Dependencies that all guests of a viewer share: processes, log and paths."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from broker.authority.audit import event_log
from broker.core.notify import Notify
from broker.helpers.compositor_socket import display_setting
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.net.connection_quota import SoundServerPlaces
from broker.viewer.orders.session_orders import UserSession
from broker.viewer.sound.levels import levels_folder
from broker.viewer.wayland.screen import silent
from broker.viewer.wayland.strip_letters import StripLetters
from broker.viewer.wayland.window_rules import FrameColours
from broker.viewer.workers.pool import Workers


def unheard(_ago: float) -> None:
    """Ignore the user's action."""


async def no_variables(_display: bool) -> dict[str, str]:  # noqa: FBT001 -- a callback
    """No rule is known."""
    return {}


@dataclass(frozen=True)
class GuestTools:
    """The dependencies that all guests of a viewer share."""

    workers: Workers
    pump: PumpSupervisor
    log: event_log.EventLog
    compositor: Callable[[], Awaitable[Path]]
    """The compositor's socket now.

    Raises SetupError when there is none, UpstreamError when it cannot be looked for.
    """
    session: UserSession
    """Carries out what needs the user's rights."""
    display: Callable[[], Path | None] = display_setting
    """Where the compositor's socket has to be."""
    notify: Notify = silent
    """Shows a notification on the desktop."""
    levels: Callable[[], Path] = levels_folder
    """The directory of the mixer's settings."""
    microphone_revoked: dict[str, float] = field(default_factory=dict)
    """Until when each record is refused the microphone, by the event loop's clock."""
    sound_places: SoundServerPlaces = field(default_factory=SoundServerPlaces)
    """Connections of all sandboxes to the sound server."""
    colours: FrameColours = field(default_factory=FrameColours)
    """Of all frames."""

    @cached_property
    def letters(self) -> StripLetters:
        """Of the names in frames."""
        return StripLetters(self.session)
