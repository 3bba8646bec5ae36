"""Surfaces and frames: geometry, layout, commits."""
