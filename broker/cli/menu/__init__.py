"""What the application menu starts: it has no terminal, so it reports by notification."""
