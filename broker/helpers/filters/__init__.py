"""Filters of system calls: how they are made, and which process has which."""
