"""What the host's and the viewer's process share: their ends of the authority's channel.

The authority imports nothing of it.

Processes: vitrail-local before its fork, viewer, host (authority_handle, find_record,
foundation, host_folders, lease_listing, log_client, measured_rows, open_authority,
record_copy, status_rows); viewer, host, brokerctl (sandbox_names).
"""
