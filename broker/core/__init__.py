"""Vocabulary without input or output: errors, limits, names, port table."""

from __future__ import annotations
