"""The micro VM launcher: QEMU, its network, vsock and state.

Processes: host, brokerctl (accel, arena, control, gpu_renderer, qemu_arguments, qmp,
vm_state, vmm_jail, vsock_backend); launch tools in their jail (fetch); host, launch
tools in their jail, brokerctl (hosttools); brokerctl (image_boot); launch tools
(jailed_tool).
"""
