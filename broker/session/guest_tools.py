"""What all guests of a viewer share: processes, the log, and where things are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from broker.launch.sound import find_sound
from broker.launch.waypipe_podman import Podman
from broker.session import journal
from broker.session.pumps import PumpKeeper
from broker.session.sound_desk import desks_folder
from broker.session.sound_levels import levels_folder
from broker.session.sound_places import SoundServerPlaces
from broker.session.workers import Workers


@dataclass(frozen=True)
class GuestTools:
    """What all guests of a viewer share."""

    workers: Workers
    pump: PumpKeeper
    log: journal.Journal
    compositor: Callable[[], Path]
    """The compositor's socket now.  Raises SetupError when there is none."""
    waypipe: Path | Podman | None
    """None: the one on PATH."""
    sound: Callable[[], Path] = find_sound
    """The sound server's socket now.  Raises SetupError when there is none."""
    levels: Callable[[], Path] = levels_folder
    """Where the mixer keeps what the person has set."""
    desks: Callable[[], Path] = desks_folder
    """Where the mixer finds what plays."""
    sound_places: SoundServerPlaces = field(default_factory=SoundServerPlaces)
    """Connections of all sandboxes to the sound server."""
