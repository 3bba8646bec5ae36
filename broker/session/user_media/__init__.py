"""The user's sound, cameras, screens and security keys."""
