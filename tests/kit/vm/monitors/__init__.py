"""Stand-ins for VMMs that no Debian release has: their API, with QEMU."""
