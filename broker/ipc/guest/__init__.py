"""Messages of a guest's programs for files and the desktop, and the broker's to them.

Processes: viewer, worker, brokerctl (daemons); session children, viewer, worker,
brokerctl (file_requests).
"""
