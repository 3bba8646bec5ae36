"""Machines that are copied from a booted one instead of booting."""
