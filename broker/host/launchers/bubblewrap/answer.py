"""A box as brokerctl's quick start asks for it, without reading records itself.

The host makes the answer, or brokerctl if no broker answers; brokerctl starts the box.
"""

from __future__ import annotations

from broker.ipc.control.types import launches as api
from policy.records.model import Bwrap, Record
from policy.records.places import writable


def box_answer(record: Record | None, *, trees: bool) -> api.LaunchBoxAnswer:
    """Return the box of a record for brokerctl; empty if the record has none.

    Also empty if the record names a language or a root of another system, or if it writes
    to directories and other records have such roots (``trees``): launchers.bwrap checks
    these.
    """
    launch = None if record is None else record.host.launch
    looks = {} if record is None else dict(record.viewer.looks)
    if record is None or not isinstance(launch, Bwrap) or "language" in looks:
        return api.LaunchBoxAnswer()
    if launch.rootfs is not None or (trees and writable(record)):
        # guard: the root of a box is checked before it starts
        return api.LaunchBoxAnswer()
    return describe_box(record, launch)


def describe_box(record: Record, launch: Bwrap) -> api.LaunchBoxAnswer:
    """Return the box of a record, whose launcher is ``launch``; language and home apart.

    Looks at nothing but the record.  brokerctl calls it, too, where no broker answers.
    """
    folders = record.viewer.folders
    return api.LaunchBoxAnswer(
        sandbox_class=record.host.sandbox_class,
        command=list(launch.command),
        read_only=[str(path) for path in launch.read_only],
        read_write=[str(path) for path in launch.read_write],
        open_files=launch.open_files,
        user_namespaces=launch.user_namespaces,
        network=launch.network,
        gpu=launch.gpu == "buffers",
        x11=record.viewer.window.x11,
        folders=bool(folders.read_only or folders.read_write),
        memory_mounts={str(mount.at): mount.size for mount in folders.memory},
    )
