"""X11 programs: the bridge beside a rootful Xwayland."""
