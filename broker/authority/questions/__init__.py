"""Questions to the user: their queue, grants, the phrase."""

from __future__ import annotations
