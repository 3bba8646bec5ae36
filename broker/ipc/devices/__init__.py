"""USB devices: descriptors, descriptions, and who has which.  Sans-IO."""

from __future__ import annotations
