"""Notifications of sandboxes on the user's desktop."""
