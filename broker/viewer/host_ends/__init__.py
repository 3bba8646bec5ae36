"""The viewer's ways to its host: a process beside it, or the link."""
