"""Files and links of the user's: opening, copying, choosing, printing."""

from __future__ import annotations

from broker.core.errors import SetupError
from broker.ipc.session import files as m
from broker.session.errand import Errand


def carry_out_file(errand: Errand, order: m.FileOrder) -> None:
    """Carry out one of these orders.  Raises VitrailError, OSError."""
    del errand
    raise SetupError(f"{type(order).__name__} is not written yet")
