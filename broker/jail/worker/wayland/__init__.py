"""The worker's Wayland connections: sockets around the filter.

Processes: worker, brokerctl (connection, dmabuf, machine, waypipe_connection,
waypipe_memory).
"""
