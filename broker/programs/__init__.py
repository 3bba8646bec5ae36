"""Each program readable top to bottom: the started processes and their parents."""

from __future__ import annotations
