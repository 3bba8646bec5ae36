"""Adopt domains of libvirt: list them, change one, and undo that."""
