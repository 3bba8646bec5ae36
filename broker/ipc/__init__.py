"""Messages between processes of ours, a set in each module."""
