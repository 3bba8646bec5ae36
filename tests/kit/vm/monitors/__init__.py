"""Stand-ins for VMMs that no Debian release has: their API, and QEMU behind it."""
