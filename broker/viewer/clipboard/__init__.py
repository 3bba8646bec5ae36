"""The clipboard between the viewer's sandboxes.

Processes: viewer, brokerctl (outcomes).
"""
