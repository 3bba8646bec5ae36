"""Windows of sandboxes: the rules of their records, and what workers report."""
