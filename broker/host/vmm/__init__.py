"""The micro VM launcher: QEMU, its network, vsock and state."""
