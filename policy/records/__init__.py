"""Records of sandboxes: format, reading, schema."""
