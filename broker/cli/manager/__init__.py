"""The manager: a window of sandboxes, permissions, questions, devices and events."""
