"""bubblewrap: a sandbox of namespaces alone, on the host's own programs."""
