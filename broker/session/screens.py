"""The tools that draw frames and banners."""

from __future__ import annotations

import socket

from broker.helpers.process.popen import Process, our_program
from broker.helpers.tools.profiles import BANNER, FRAME, Tool
from broker.ipc.session.media_orders import ShowBanner, ShowFrame
from broker.session.errand import Errand


def show_frame(errand: Errand, order: ShowFrame) -> None:
    """Run the program that frames a screen until the viewer or the screen ends it.

    Raises OSError.
    """
    numbers = map(str, (order.width, order.height, order.x, order.y))
    _draw(errand, FRAME, order.colour, *numbers)


def show_banner(errand: Errand, order: ShowBanner) -> None:
    """Run the program that shows what sandboxes use until the viewer ends it.

    Raises OSError.
    """
    rows = (f"{r.colour}:{r.sandbox}: {' '.join(r.marks)}" for r in order.rows)
    _draw(errand, BANNER, *rows)


def _draw(errand: Errand, tool: Tool, *words: str) -> None:  # style: as of its callers
    """Run a drawing program; answer with the socket of its standard output."""
    argv = our_program(*tool.start, *words)
    near, far = socket.socketpair()

    def begun(_process: Process) -> None:
        far.close()
        errand.answer(fds=[near.fileno()])
        near.close()

    with near, far:
        errand.run(argv, stdout=far.fileno(), begun=begun)
