"""Exceptions that decoders raise for malformed bytes."""

from __future__ import annotations

import msgspec

# guard: a message that is nested deep is an error of its sender
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""For ``except``, wherever bytes of another process are decoded.

msgspec skips fields that it does not know, and raises RecursionError for one that is
nested a thousand deep; a name that is not UTF-8 is a UnicodeDecodeError.  One of them
missing, and a hostile sender's message ends a task that has no handler for it.
"""
