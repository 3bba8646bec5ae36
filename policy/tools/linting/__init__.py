"""Findings about rules and records: what never decides, asks too much, or is unknown."""
