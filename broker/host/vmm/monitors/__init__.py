"""Shared by the VMMs with an HTTP API on a UNIX socket: client, console, start."""
