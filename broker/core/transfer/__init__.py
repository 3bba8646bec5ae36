"""Addresses, file names and files that cross between sandboxes: the rules, sans-IO.

The worker that receives a sandbox's words checks them by these; the viewer, and the
session child that acts on them, check them again.
"""
