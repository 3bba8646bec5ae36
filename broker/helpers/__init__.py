"""Holds one descriptor: programs beside the authority, and what starts them."""

from __future__ import annotations
