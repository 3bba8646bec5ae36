"""The link to the broker of the other machine."""
