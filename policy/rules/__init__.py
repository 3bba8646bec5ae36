"""Rules: reading them, and answering a call."""
