"""A security key's messages, parsed."""

from __future__ import annotations
