"""Sending the audit log on: to journald, an OTLP collector, PostgreSQL, a file.

At least once, in order and without a gap: every receiver has a cursor on disk
that moves when the receiver has taken a batch, and never otherwise.  Nothing
here is in the way of a decision: it reads the log like any other reader, in a
separate process.

Processes: session children, shipper, shipper in its jail, brokerctl (config);
authority, shipper, shipper in its jail, brokerctl (cursor); shipper in its jail,
vitrail-ingest, brokerctl (database, postgres, terms); shipper in its jail, brokerctl
(edges, http_post, ingest, journald, jsonl, otlp, receiver_lock, run, saved_cursor);
shipper (jail, service); shipper, shipper in its jail (jailed); authority, shipper in
its jail, brokerctl (journal_entry); shipper, shipper in its jail, brokerctl
(local_receivers); authority, shipper, brokerctl (state).
"""

from __future__ import annotations
