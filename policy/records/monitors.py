"""Keys that have no meaning for a machine of another VMM than QEMU."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from policy.records.field_types import Path as KeyPath
from policy.records.record_schema import FOLDERS, KIND_KEY, STATE

_NO_NETWORK = {
    "firecracker": "Firecracker takes a tap device only, which an ordinary user "
    "cannot make",
    "cloud-hypervisor": "Cloud Hypervisor takes a tap device or vhost-user only, and "
    "the frame filter speaks neither",
}
_INSTEAD = 'set kind = "microvm"'


def check(
    taken: Mapping[str, object], complain: Callable[[KeyPath, str, str, str], None]
) -> None:
    """Complain about network, folders and an encrypted disk."""
    kind = str(taken[KIND_KEY])
    # guard: a VMM that takes a tap device only has no network
    if taken["launch.network"] != "none":
        complain(
            ("launch", "network"),
            f'a sandbox of kind = "{kind}" has no network: {_NO_NETWORK[kind]}',
            'network = "none"',
            _INSTEAD,
        )
    if taken.get("state.encrypted"):
        complain(
            (STATE.name, "encrypted"),
            f'kind = "{kind}" cannot open an encrypted disk: it knows no LUKS',
            "encrypted = false",
            _INSTEAD,
        )
    for field in FOLDERS.fields:
        if taken[f"{FOLDERS.name}.{field.key}"]:
            complain(
                (FOLDERS.name, field.key),
                f'a sandbox of kind = "{kind}" has no folders',
                "",
                f"remove it, or {_INSTEAD}",
            )
