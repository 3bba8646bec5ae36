"""Verbs about services that are called by name."""
