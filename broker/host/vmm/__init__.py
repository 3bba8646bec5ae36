"""The micro VM launcher: QEMU, its network, vsock and state.

Processes: host, brokerctl (accel, arena, control, gpu_renderer, qemu_arguments, qmp,
vm_state, vmm_jail, vsock_backend); launch tools (fetch); host, launch tools, brokerctl
(hosttools); brokerctl (image_boot).
"""
