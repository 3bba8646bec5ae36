"""The tools that draw frames and banners."""

from __future__ import annotations

import socket

from broker.helpers.process.popen import Process, our_program
from broker.helpers.tools.profiles import BANNER, FRAME, Tool
from broker.ipc.session.media_orders import (
    SHOW_BANNER,
    SHOW_FRAME,
    ShowBanner,
    ShowFrame,
)
from broker.session.order_exchange import OrderExchange
from broker.wire.row import serves


@serves(SHOW_FRAME)
def show_frame(exchange: OrderExchange, order: ShowFrame) -> None:
    """Run the program that frames a screen until the viewer or the screen ends it.

    Raises OSError.
    """
    numbers = map(str, (order.width, order.height, order.x, order.y))
    _draw(exchange, FRAME, order.colour, *numbers)


@serves(SHOW_BANNER)
def show_banner(exchange: OrderExchange, order: ShowBanner) -> None:
    """Run the program that shows what sandboxes use until the viewer ends it.

    Raises OSError.
    """
    rows = (f"{r.colour}:{r.sandbox}: {' '.join(r.marks)}" for r in order.rows)
    _draw(exchange, BANNER, *rows)


def _draw(
    exchange: OrderExchange, tool: Tool, *words: str
) -> None:  # style: as of its callers
    """Run a drawing program; answer with the socket of its standard output."""
    argv = our_program(*tool.start, *words)
    near, far = socket.socketpair()

    def begun(_process: Process) -> None:
        far.close()
        exchange.answer(fds=[near.fileno()])
        near.close()

    with near, far:
        exchange.run(argv, stdout=far.fileno(), on_start=begun)
