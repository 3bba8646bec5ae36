"""The pair of sockets between host and viewer on one machine.

Each of the two processes runs this at its end.
"""
