"""Calls between our own processes: rows, the peer that serves them, its carriers."""
