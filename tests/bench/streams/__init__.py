"""Throughput of a machine's connections."""
