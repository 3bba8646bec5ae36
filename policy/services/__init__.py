"""Services that sandboxes call: in records, and at the user's own desktop.

Processes: session children, brokerctl (desktop); authority, session children, viewer,
brokerctl (fields); authority, session children, brokerctl (record).
"""
