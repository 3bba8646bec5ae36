"""Types of the requests that ``brokerctl`` and other programs send, by subject.

``control.api`` has all of them; a process that answers some names those only.

Processes: authority, viewer, brokerctl (asking, clipboard_status, devices, folders,
launches, log, network, notifications, opening, running, windows); authority, viewer, host,
brokerctl (base, faults, leases, status, status_rows).
"""
