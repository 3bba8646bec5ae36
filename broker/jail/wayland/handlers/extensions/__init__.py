"""Handlers of protocols that most applications do without."""
