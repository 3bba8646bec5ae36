"""What the desktop gives to sandboxes: messages of guests and workers.

Processes: viewer, worker, brokerctl.
"""
