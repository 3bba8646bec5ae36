"""The pair of sockets between host and viewer on one machine.

Processes: vitrail-local before its fork, viewer, host.
"""
