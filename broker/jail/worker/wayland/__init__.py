"""The worker's Wayland connections: sockets around the filter.

Processes: worker, brokerctl (connection, dmabuf, files_and_pipes, waypipe_connection,
waypipe_memory).
"""
