"""Names in questions that are shown in other words, or otherwise than the others."""

from __future__ import annotations

VIEWER = "@adminvm"
VIEWER_NAMES = frozenset({VIEWER, "dom0"})

CHECKED = "vitrail.SshAgent"
"""The service whose details are not the sandbox's claims: the broker has checked the host's
signature, and writes what the key signs."""
