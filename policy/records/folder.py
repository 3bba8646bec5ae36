"""The directory of records below each configuration directory."""

from __future__ import annotations

FOLDER = "sandboxes.d"
