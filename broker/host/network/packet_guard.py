"""The process between a sandbox's interface and passt, and the switch: one program.

``packet_guard CARRIED INTERFACE ARGUMENT…``.  ``CARRIED`` names what it carries to the
other side: ``frames``, each judged by itself (frameguard of QEMU, netguard of others);
``flows``, each decided by the viewer (flowguard); ``cable``, all, for a switch judges
them.  ``INTERFACE`` is ``qemu`` (a stream of frames) or ``veth`` (of a box).  The arguments of each are those of its module.

``packet_guard switch`` is the process that sandboxes of one network share, and
``packet_guard passt LIBRARY COMMAND…`` confines itself and becomes passt.

Each mode imports its own modules alone, makes its interface and confines itself by
``keep_descriptors_only`` before it reads a byte of the sandbox.
"""

from __future__ import annotations

from pathlib import Path

from broker.core.errors import InternalError


def main(*words: str) -> int:
    """Carry a sandbox's frames to the end; return 1 if its interface cannot be made."""
    # Late, by mode: a process that decides on no flow has no code that reads names and
    # hellos, and its memory is smaller.
    match words:
        case "frames", "qemu", *fds:
            from broker.host.network.frameguard.frameguard import guard_frames

            return guard_frames(*map(int, fds))
        case "frames", "veth", *fds:
            from broker.host.network.frameguard.interfaces import guard_interface

            return guard_interface(*map(int, fds))
        case "flows", interface, *fds, resolv_conf:
            from broker.host.network.flowguard.rules import guard_flows

            return guard_flows(interface, Path(resolv_conf), *map(int, fds))
        case "cable", "veth", *arguments:
            from broker.host.network.switch.cable import lay_to_switch

            return lay_to_switch(*arguments)
        case "passt", library, *command:
            from broker.host.network.confined_passt import execute_passt

            return execute_passt(library, command)
        case "switch", control, network:
            from broker.host.network.switch.process import switch_frames

            return switch_frames(control, network)
        case _:
            raise InternalError(f"the packet guard has no mode {words[:2]}")
