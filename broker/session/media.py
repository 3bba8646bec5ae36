"""Sound, cameras, screens and security keys of the user's."""

from __future__ import annotations

from broker.core.services import AUDIO
from broker.ipc.session import media as m
from broker.session.connecting import connect_path
from broker.session.errand import Errand
from broker.session.sound_server import find_sound


def carry_out_media(errand: Errand, order: m.MediaOrder) -> None:
    """Carry out one of these orders.  Raises VitrailError, OSError."""
    errand.permit(order.warrant, {AUDIO})
    with connect_path(find_sound()) as server:
        errand.answer(fds=[server.fileno()])
