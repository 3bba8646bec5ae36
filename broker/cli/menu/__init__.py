"""Programs of the application menu, which report by notification."""
