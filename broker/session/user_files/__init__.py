"""The user's files: chosen in the desktop's dialog, copied, opened and printed."""
