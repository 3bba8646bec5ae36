"""The link between host and viewer as both ends run it."""
