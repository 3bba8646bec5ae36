"""Sending the audit log on: to journald, an OTLP collector, PostgreSQL, a file.

At least once, in order and without a gap: every receiver has a cursor on disk
that moves when the receiver has taken a batch, and never otherwise.  Nothing
here is in the way of a decision: it reads the log like any other reader, in a
separate process.
"""

from __future__ import annotations
