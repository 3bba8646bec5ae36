"""A network of sandboxes: its frames, its process, and who is plugged in."""
