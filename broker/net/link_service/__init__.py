"""The link between host and viewer as both ends run it.

Processes: viewer, host, brokerctl (config, key_store, sockets); viewer, host (epoch,
far_end, lease_turns, link_status).
"""
