"""Types of the requests that ``brokerctl`` and other programs send, by subject.

``control.api`` has all of them; a process that answers some names those only.
"""
