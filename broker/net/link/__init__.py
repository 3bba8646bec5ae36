"""Between host and viewer: endpoints and the seam that both roles speak through."""

from __future__ import annotations
