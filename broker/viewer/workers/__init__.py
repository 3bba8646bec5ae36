"""Worker processes: the fork server, the pool, and one handle for each."""
