"""Rules and verdicts of streams, as the viewer sends and the worker applies them."""

from __future__ import annotations
