"""What is done with the user's rights for the viewer, in one child of the starter each.

Processes: session children (broker_programs, child, connecting, errand, read_warrant,
session_bus_filter, tools); helpers, session children (used_warrants).
"""
