"""Vitrail's brokers: host, viewer and local, with their filters and tools."""

from __future__ import annotations

__version__ = "0.2.0"
