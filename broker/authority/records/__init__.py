"""Records of sandboxes: those of files, those kept of stopped ones, their names."""

from __future__ import annotations
