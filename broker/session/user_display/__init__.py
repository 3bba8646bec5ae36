"""The user's compositor, font and chords."""
