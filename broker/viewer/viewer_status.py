"""The status of a viewer: guests, rules, questions, workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import trio
from typing_extensions import override

from broker.core.escape import printable
from broker.core.names import LeaseId
from broker.core.services import CAMERA_USE, SCREEN_USE
from broker.host_and_viewer.status_rows import (
    StatusRows,
    StreamCount,
    process_status,
)
from broker.ipc.control import api
from broker.viewer.role import ViewerRole
from broker.viewer.sandboxes.guest import Guest
from broker.viewer.wayland.window_requests import WindowsPart
from broker.viewer.workers.pool import Workers


@dataclass(frozen=True)
class ViewerRows(StatusRows):
    """A viewer's part of the status; leases and streams are the host's."""

    viewer: ViewerRole
    workers: Workers

    @override
    async def sandboxes(self) -> list[api.SandboxStatus]:
        limits = await WindowsPart(self.viewer).limits()
        return [
            _sandbox(guest, self.viewer, limits.get(guest.lease.sandbox, []))
            for guest in self.viewer.guests()
        ]

    @override
    async def worker_counts(self) -> Mapping[int, StreamCount]:
        """Ask every worker at the same time; return the byte counts of all streams."""
        counted: dict[int, StreamCount] = {}

        async def ask(guest: Guest) -> None:
            for number, count in (await guest.streams.counts(guest.worker)).items():
                counted[number] = StreamCount(
                    count.from_guest, count.to_guest, count.work / 1000
                )

        async with trio.open_nursery() as nursery:
            for guest in self.viewer.guests():
                nursery.start_soon(ask, guest)
        return counted

    @override
    def processes(self) -> list[api.ProcessStatus]:
        out: list[api.ProcessStatus] = []
        if self.workers.fork_server_pid:
            out.append(process_status("fork server", self.workers.fork_server_pid))
        for guest in self.viewer.guests():
            out += _guest_processes(guest)
        return out


def _programs_of(guest: Guest) -> list[api.ProgramStatus]:
    return [
        api.ProgramStatus(program=p.number, name=p.name, since=p.began)
        for p in guest.programs.live()
    ]


def _devices_of(viewer: ViewerRole, lease: LeaseId) -> list[str]:
    """Return a line for each device and picture source that a sandbox uses."""
    return [
        f"{holding.item.port}  {holding.item.device_id}  {holding.item.title}"
        for holding in viewer.devices.holdings()
        if holding.lease.id == lease
    ] + [
        f"{kind}{use.lease.sandbox}  {verb}  {use.title}"
        for kind, verb, users in (
            (CAMERA_USE, "uses", viewer.cameras),
            (SCREEN_USE, "sees", viewer.screens),
        )
        for use in users.uses()
        if use.lease.id == lease
    ]


def _folders_of(viewer: ViewerRole, lease: LeaseId) -> list[str]:
    return [
        printable(str(shared.path), 200) + " (writable)" * shared.write
        for shared in viewer.folders.shared()
        if shared.lease.id == lease
    ]


def _sandbox(
    guest: Guest, viewer: ViewerRole, limits: list[api.LimitStatus]
) -> api.SandboxStatus:
    """Return a sandbox's row of the status."""
    lease = guest.lease
    record = viewer.record(lease.record)
    return api.SandboxStatus(
        name=lease.sandbox,
        record=lease.record,
        sandbox_class="" if record is None else record.viewer.sandbox_class,
        label="" if record is None else record.viewer.label.name,
        color="" if record is None else record.viewer.label.colour,
        state=guest.state,
        since=guest.since,
        programs=_programs_of(guest),
        devices=_devices_of(viewer, lease.id),
        folders=_folders_of(viewer, lease.id),
        limits=limits,
        network=viewer.network.traffic(lease.id),
    )


def _guest_processes(guest: Guest) -> list[api.ProcessStatus]:
    """Return the processes of a guest for the status: keeper and worker."""
    out: list[api.ProcessStatus] = []
    name = guest.lease.sandbox
    if guest.worker is not None:
        jail = guest.worker.jail
        walls = ["namespaces"] * jail.namespaces + ["seccomp"] * jail.seccomp
        walls += ["landlock"] * bool(jail.landlock)
        pid = guest.worker.keeper_pid
        out.append(process_status("keeper", pid, name, jail="seccomp" * jail.seccomp))
        out.append(
            process_status("worker", guest.worker.inner_pid, name, jail=" ".join(walls))
        )
    return out
