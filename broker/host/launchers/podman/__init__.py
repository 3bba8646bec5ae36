"""Podman: containers by record, and the hook for those that people start."""
