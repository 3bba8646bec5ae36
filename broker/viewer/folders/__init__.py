"""Directories of the person's that sandboxes have: by rule, shown, revocable."""
