"""Devices: which sandbox may have which, as rules and the user say."""

from __future__ import annotations
