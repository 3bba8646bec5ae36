"""Directories of the user's that sandboxes have: by rule, shown, revocable."""
