"""Calls of services between sandboxes, ssh keys and secrets by rule."""
