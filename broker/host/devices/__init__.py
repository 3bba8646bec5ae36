"""USB devices of this machine: seen, bounded by its records, handed over."""

from __future__ import annotations
