"""Firecracker as a machine's VMM."""
