"""Worker processes: the template, the pool, and one handle for each."""
