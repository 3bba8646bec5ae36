"""Names in questions that are shown in other words, or otherwise than the others.

The authority, the prompt agent, the viewer and brokerctl compare names with these.
"""

from __future__ import annotations

VIEWER = "@adminvm"
VIEWER_NAMES = frozenset({VIEWER, "dom0"})
PROMPT_ID = "io.vitrail.Prompt"
"""Application id of the dialog, by which a desktop has its name and icon."""
