"""Reads it: parsers of what sandboxes send, in processes without rights."""

from __future__ import annotations
