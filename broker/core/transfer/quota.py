"""The bound of a transfer.

The viewer sets it in an order, the worker that receives a transfer keeps to it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quota:
    """The most that one transfer may bring; bytes and numbers."""

    file_size: int
    size: int
    files: int
    single: bool = False
    """One file only, as when it is to be opened."""
    name: str = ""
    """Name of the first entry, as in the request; empty: any name."""
