"""Counts that the project compares with its last commit: sizes, and plain English."""
