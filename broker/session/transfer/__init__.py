"""The user's files, opened and chosen: each in a process of its own."""
