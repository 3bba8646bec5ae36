"""Rules: reading them, and answering a call.

The authority and brokerctl run all of it; the viewer only ``record_gate``, before it
starts a program, and the names in ``wording``.
"""
