"""Directories of the user that sandboxes get."""
