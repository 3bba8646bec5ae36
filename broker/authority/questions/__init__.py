"""Questions to the user: their queue, what was granted, the phrase."""

from __future__ import annotations
