"""Devices: which sandbox may have which, as rules and the person say."""

from __future__ import annotations
