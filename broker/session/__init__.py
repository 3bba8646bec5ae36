"""The life of a stream: identify, decide, run, close; host and viewer roles."""

from __future__ import annotations
