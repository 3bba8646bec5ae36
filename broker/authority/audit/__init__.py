"""The audit log: the schema of events, their store, and queries.

Processes: authority, vitrail-local before its fork, viewer, host, brokerctl
(event_log); authority, session children, vitrail-local before its fork, viewer, host,
brokerctl (names); authority, brokerctl (names_key, retention, store); authority,
session children, brokerctl (settings).
"""

from __future__ import annotations
