"""Sending the audit log on: to journald, an OTLP collector, PostgreSQL, a file.

At least once, in order and without a gap: every receiver has a cursor on disk
that moves when the receiver has taken a batch, and never otherwise.  Nothing
here is in the way of a decision: it reads the log like any other reader, in a
process of its own.

Processes: viewer, shipper, brokerctl (config); authority, shipper, brokerctl (cursor,
journal_entry, state); shipper, vitrail-ingest, brokerctl (database, postgres, terms);
shipper, brokerctl (edges, http_post, ingest, journald, jsonl, otlp, run, service).
"""

from __future__ import annotations
