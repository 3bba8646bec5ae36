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
from broker.session.order_exchange import OrderExchange
from broker.session.wayland_letters import draw_letters
from broker.wire.row import serves


@serves(m.FIND_COMPOSITOR)
def answer_compositor(exchange: OrderExchange, _request: m.FindCompositor) -> None:
    """Answer where the compositor's socket is."""
    path = find_compositor()
    exchange.answer(m.FoundCompositor(b"" if path is None else os.fsencode(path)))


@serves(m.READ_CHORDS)
def answer_chords(exchange: OrderExchange, _request: m.ReadChords) -> None:
    """Answer with a file of the chords that the user wants."""
    exchange.answer_file(msgspec.json.encode(load_choice(find_paths())))


@serves(m.DRAW_LETTERS)
def answer_letters(exchange: OrderExchange, request: m.DrawLetters) -> None:
    """Answer with a file of letters.  Raises VitrailError."""
    exchange.answer_file(draw_letters(request.height))
