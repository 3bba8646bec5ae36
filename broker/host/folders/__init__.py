"""Directories of the user's in sandboxes of this host: mounts, by kind of sandbox."""
