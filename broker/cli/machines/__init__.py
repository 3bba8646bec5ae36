"""Verbs about virtual machines that other programs start."""
