"""The lines that describe a lockdown by its effect, for brokerctl and the panel."""

from __future__ import annotations

from broker.ipc.control.api import LockdownAnswer


def lockdown_lines(
    lockdown: LockdownAnswer, *, runs: bool = True, lifted: bool = False
) -> list[str]:
    """Return lines, the first one with the whole effect.

    ``runs``: a broker runs, which has answered.  ``lifted``: it was in force before.
    """
    if not lockdown.locked:
        if lifted:
            return ["no lockdown is in force any more: rules decide again"]
        return ["no lockdown is in force"]
    if not runs:
        return [
            "no broker is running, so nothing is cut: the next one starts in a lockdown"
        ]
    lines = [lockdown.unkept] if lockdown.unkept else []
    if not lockdown.networks:
        return [
            (
                "a lockdown is in force: microphones, cameras, copies and new starts "
                "are denied until the lockdown is lifted"
            ),
            *lines,
        ]
    if not lockdown.open_networks:
        return [
            (
                "a lockdown is in force: networks, microphones, cameras, copies and "
                "new starts are denied until the lockdown is lifted"
            ),
            *lines,
        ]
    names = ", ".join(lockdown.open_networks)
    return [
        (
            "a lockdown is in force, but these sandboxes may still use a network: "
            f"{names}; other networks, microphones, cameras, copies and new starts are "
            "denied until the lockdown is lifted"
        ),
        (
            f"Vitrail does not control the network of {names}: to end it, stop these "
            "sandboxes with 'brokerctl stop', or run 'brokerctl lockdown --networks' "
            "on the machine that runs them"
        ),
        *lines,
    ]
