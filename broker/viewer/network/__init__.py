"""Flows of sandboxes, and ports that are forwarded to them."""
