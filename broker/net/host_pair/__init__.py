"""The pair of sockets between host and viewer on one machine."""
