"""Windows of sandboxes: listed, and closed."""
