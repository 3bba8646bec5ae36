"""What a viewer asks about the user's display.

A session child finds the compositor, reads the chords' file, or has letters drawn by a
program.
"""

from __future__ import annotations

import os

import msgspec

from broker.core.clipboard.chord_settings import load_choice
from broker.core.paths import find_paths
from broker.helpers.compositor_socket import find_compositor
from broker.ipc.session import display_orders as m
from broker.session.errand import Errand
from broker.session.wayland_letters import draw_letters


def carry_out_display(errand: Errand, order: m.DisplayOrder) -> None:
    """Carry out an order about the user's display.  Raises VitrailError, OSError."""
    match order:
        case m.FindCompositor():
            found = find_compositor()
            errand.answer(b"" if found is None else os.fsencode(found))
        case m.ReadChords():
            errand.answer_file(msgspec.json.encode(load_choice(find_paths())))
        case m.DrawLetters():
            errand.answer_file(draw_letters(order.height))
