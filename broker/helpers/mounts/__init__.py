"""Directories of the person's in a sandbox: opened safely, mounted, unmounted."""
