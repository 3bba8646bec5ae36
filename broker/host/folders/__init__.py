"""Directories of the person's in sandboxes of this host: mounts, by kind of sandbox."""
