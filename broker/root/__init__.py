"""What runs with capabilities of root: USB devices read, handed over, exported."""

from __future__ import annotations
