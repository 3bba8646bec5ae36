"""Events and the log's database: written by one process, read by several.

Processes: shipper, brokerctl (counts, filters, plan, query); authority, viewer,
shipper, brokerctl (database); authority, viewer, host, shipper, brokerctl (event,
schema); shipper, vitrail-ingest, brokerctl (ingest); authority, viewer, host
(log_messages); authority, shipper, vitrail-ingest, brokerctl (nodes); authority,
viewer, shipper, vitrail-ingest, brokerctl (tree).
"""

from __future__ import annotations
