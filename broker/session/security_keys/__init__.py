"""The security key of this machine, and each use of it."""
