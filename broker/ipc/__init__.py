"""Messages between our processes, a set in each module."""
