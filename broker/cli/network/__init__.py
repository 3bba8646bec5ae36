"""Verbs about the network of sandboxes."""
