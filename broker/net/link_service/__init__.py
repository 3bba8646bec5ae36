"""The link between host and viewer as both ends run it.

Processes: session children, viewer, host, brokerctl (config); viewer, host (epoch,
link_status); vitrail-local before its fork, viewer, host (far_end, lease_turns);
viewer, host, brokerctl (key_store, sockets).
"""
