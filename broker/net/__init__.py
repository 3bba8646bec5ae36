"""Sockets, and the link of two machines."""

from __future__ import annotations
