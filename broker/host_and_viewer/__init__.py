"""What the host's and the viewer's process share: their ends of the authority's channel.

The authority imports nothing of it.

Processes: vitrail-local, before it is confined, viewer, host (find_record, foundation,
lease_listing, log_client, open_authority, record_copy, status_rows); viewer, host,
brokerctl (sandbox_names).
"""
