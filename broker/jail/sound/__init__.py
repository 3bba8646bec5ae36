"""The PulseAudio filter: one sandbox's sound, as bytes in and bytes out."""

from __future__ import annotations
