"""Messages between our own processes, and how they and descriptors travel."""
