"""Homes in encrypted files, and their way back."""
