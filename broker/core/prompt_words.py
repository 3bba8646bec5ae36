"""Names in questions that are shown in other words, or otherwise than the others."""

from __future__ import annotations

VIEWER = "@adminvm"
VIEWER_NAMES = frozenset({VIEWER, "dom0"})
