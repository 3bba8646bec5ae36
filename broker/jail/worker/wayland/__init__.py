"""The worker's Wayland connections: sockets around the filter."""
