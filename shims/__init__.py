"""Guest-side and launcher-side programs: standard library only, one file each."""

from __future__ import annotations
