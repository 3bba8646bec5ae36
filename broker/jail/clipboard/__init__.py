"""Contents of clipboards made harmless."""

from __future__ import annotations
