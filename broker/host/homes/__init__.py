"""The state that a sandbox keeps between its runs, for every launcher."""
