"""The worker's sound connections: sockets around the filter."""
