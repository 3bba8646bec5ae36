"""Persistent homes: backups, copies, snapshots."""
