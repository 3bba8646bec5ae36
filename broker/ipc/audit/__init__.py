"""Events and the log's database: written by one process, read by several.

Processes: shipper in its jail, brokerctl (counts, filters, plan, query); authority,
shipper, shipper in its jail, brokerctl (database); most processes (event, schema);
shipper in its jail, vitrail-ingest, brokerctl (ingest); authority, vitrail-local before
its fork, viewer, host (log_messages); authority, shipper in its jail, vitrail-ingest,
brokerctl (nodes); authority, shipper, shipper in its jail, vitrail-ingest, brokerctl
(tree).
"""

from __future__ import annotations
