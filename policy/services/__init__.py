"""Services that sandboxes call: in records, and at the user's own desktop.

The authority and brokerctl read those of records, a session child and brokerctl those
of the user's own desktop.
"""
