"""Building an image in a jail."""

from __future__ import annotations
