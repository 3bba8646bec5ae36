"""The link between host and viewer as both ends run it.

Processes: viewer, host, brokerctl (config, key_store, sockets); viewer, host (epoch,
link_status); vitrail-local, before it is confined, viewer, host (far_end, lease_turns).
"""
