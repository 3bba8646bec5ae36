"""Services of the user's that a sandbox may call: programs, secrets, agents, ports."""

from __future__ import annotations

from broker.core.errors import SetupError
from broker.ipc.session import services as m
from broker.session.errand import Errand


def carry_out_service(errand: Errand, order: m.ServiceOrder) -> None:
    """Carry out one of these orders.  Raises VitrailError, OSError."""
    del errand
    raise SetupError(f"{type(order).__name__} is not written yet")
