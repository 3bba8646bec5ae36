"""Each program readable top to bottom: what is started, and who is whose parent."""

from __future__ import annotations
