"""Verbs about sandboxes as such: made, listed, watched."""
