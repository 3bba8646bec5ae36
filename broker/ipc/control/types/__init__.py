"""Types of the requests that ``brokerctl`` and other programs send, by subject.

``control.api`` has all of them; a process that answers some names those only.

Processes: authority, viewer, brokerctl (asking, clipboard_status, devices, log,
network, notifications, windows); authority, session children, vitrail-local before its
fork, viewer, host, brokerctl (base); authority, vitrail-local before its fork, viewer,
host, brokerctl (faults, launches, leases, status_rows); authority, session children,
viewer, brokerctl (folders, opening, running); authority, viewer, host, brokerctl
(status).
"""
