"""Directories of the user's in a sandbox: opened safely, mounted, unmounted."""
