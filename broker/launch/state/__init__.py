"""What a sandbox keeps between its runs, for every launcher."""
