"""Offer and write the rule that would allow a refused call."""
