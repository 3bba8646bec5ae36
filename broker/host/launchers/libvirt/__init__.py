"""libvirt: our hook, and the vsock of its domains."""
