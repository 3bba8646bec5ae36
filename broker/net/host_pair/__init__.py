"""The pair of sockets between host and viewer on one machine.

Processes: vitrail-local, before it is confined, viewer, host.
"""
