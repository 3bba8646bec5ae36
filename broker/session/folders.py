"""Directories that a sandbox gets, and the viewer's own settings."""

from __future__ import annotations

from broker.core.errors import SetupError
from broker.ipc.session import folders as m
from broker.session.errand import Errand


def carry_out_folder(errand: Errand, order: m.FolderOrder) -> None:
    """Carry out one of these orders.  Raises VitrailError, OSError."""
    del errand
    raise SetupError(f"{type(order).__name__} is not written yet")
