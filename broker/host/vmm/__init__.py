"""The micro VM launcher: QEMU, its network, vsock and state.

The host starts machines by it; brokerctl uses parts of it for machines of scripts,
libvirt and systemd-vmspawn, and for ``doctor``.
"""
