"""A stand-in for Firecracker: its API as its swagger file documents it.

Bodies are refused as the real one refuses them: unknown fields, missing ones, and
everything but actions once the machine runs.  Standard library only.
"""

from __future__ import annotations

import argparse
import os
import threading

from tests.kit.vm.monitors.backend import Machine, end, find_vhost, from_host, listen
from tests.kit.vm.monitors.http_api import RefusedError, read_fault, serve_api, take

_STARTED = "The requested operation is not supported after starting the microVM."
_NOT_STARTED = "The requested operation is not supported before starting the microVM."


class Firecracker:
    """The state of the API."""

    def __init__(self, name, vhost):
        self._name = name
        self._vhost = vhost
        self._machine = Machine()
        self._state = "Not started"
        self._drives = {}
        self._lock = threading.Lock()

    def answer(self, method, path, body):
        with self._lock:
            return self._answer(method, path, body)

    def _answer(self, method, path, body):
        where = f"{method} {path}"
        if where == "GET /":
            return {
                "id": self._name,
                "state": self._state,
                "vmm_version": "1.17.0",
                "app_name": "Firecracker",
            }
        if where == "PUT /actions":
            return self._act(take(body, {"action_type": str})["action_type"])
        if where == "PATCH /vm":
            return self._resume(take(body, {"state": str})["state"])
        known = {
            "PUT /machine-config": self._size,
            "PUT /boot-source": self._boot,
            "PUT /vsock": self._vsock,
            "PUT /entropy": lambda body: take(body, {}, {"rate_limiter": dict}),
        }
        if path.startswith("/drives/") and method == "PUT":
            made = self._drive
        elif path.startswith("/network-interfaces/") and method == "PUT":
            made = self._interface
        elif where in known:
            made = known[where]
        else:
            raise RefusedError(f"Invalid request method and/or path: {where}.")
        if self._state != "Not started":
            raise RefusedError(_STARTED)
        if made in (self._drive, self._interface):
            made(path.rpartition("/")[2], body)
        else:
            made(body)
        return None

    def _size(self, body):
        optional = {
            "smt": bool,
            "cpu_template": str,
            "track_dirty_pages": bool,
            "huge_pages": str,
        }
        take(body, {"vcpu_count": int, "mem_size_mib": int}, optional)
        if not 1 <= body["vcpu_count"] <= 32:
            raise RefusedError("The vCPU number is invalid!")
        if body["mem_size_mib"] < 1:
            raise RefusedError("The memory size (MiB) is invalid.")
        self._machine.cpus = body["vcpu_count"]
        self._machine.memory_mib = body["mem_size_mib"]

    def _boot(self, body):
        optional = {"initrd_path": str, "boot_args": str}
        take(body, {"kernel_image_path": str}, optional)
        for key in ("kernel_image_path", "initrd_path"):
            if key in body:
                with open(body[key], "rb") as file:
                    head = file.read(4)
                if key == "kernel_image_path" and head != b"\x7fELF":
                    raise RefusedError("Kernel Loader: Invalid Elf magic number")
        self._machine.kernel = body["kernel_image_path"]
        self._machine.initrd = body.get("initrd_path", "")
        self._machine.cmdline = body.get("boot_args", "")

    def _drive(self, name, body):
        optional = {
            "is_read_only": bool,
            "path_on_host": str,
            "partuuid": str,
            "cache_type": str,
            "io_engine": str,
            "rate_limiter": dict,
            "socket": str,
        }
        take(body, {"drive_id": str, "is_root_device": bool}, optional)
        if body["drive_id"] != name:
            raise RefusedError(
                "The id from the path does not match the id from the body!"
            )
        if body.get("cache_type", "Unsafe") not in ("Unsafe", "Writeback"):
            raise RefusedError("unknown variant of cache_type")
        flags = os.O_RDONLY if body.get("is_read_only") else os.O_RDWR
        os.close(os.open(body["path_on_host"], flags))
        self._drives[name] = body

    def _interface(self, name, body):
        optional = {
            "guest_mac": str,
            "mtu": int,
            "rx_rate_limiter": dict,
            "tx_rate_limiter": dict,
        }
        take(body, {"iface_id": str, "host_dev_name": str}, optional)
        if body["iface_id"] != name:
            raise RefusedError(
                "The id from the path does not match the id from the body!"
            )
        self._machine.taps.append((body["host_dev_name"], body.get("guest_mac")))

    def _vsock(self, body):
        take(body, {"guest_cid": int, "uds_path": str}, {"vsock_id": str})
        if body["guest_cid"] < 3:
            raise RefusedError("invalid guest_cid")
        self._machine.cid = body["guest_cid"]
        self._machine.uds = body["uds_path"]
        from_host(listen(body["uds_path"]))

    def _act(self, action):
        if action not in ("FlushMetrics", "InstanceStart", "SendCtrlAltDel"):
            raise RefusedError(f"unknown variant `{action}`")
        if action != "InstanceStart":
            if self._state == "Not started":
                raise RefusedError(_NOT_STARTED)
            keys = [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
            if action == "SendCtrlAltDel":
                self._machine.command("send-key", keys=keys)
            return
        if self._state != "Not started":
            raise RefusedError(_STARTED)
        if not self._machine.kernel:
            raise RefusedError("Cannot start microvm without kernel configuration.")
        drives = sorted(self._drives.values(), key=lambda d: not d["is_root_device"])
        self._machine.disks = [
            (d["path_on_host"], d.get("is_read_only", False), "") for d in drives
        ]
        if drives and drives[0]["is_root_device"]:
            self._machine.cmdline += " root=/dev/vda ro"
        self._machine.start(vhost=self._vhost)
        self._state = "Running"

    def _resume(self, state):
        if self._state == "Not started":
            raise RefusedError(_NOT_STARTED)
        commands = {"Paused": "stop", "Resumed": "cont"}
        if state not in commands:
            raise RefusedError(f"unknown variant `{state}`")
        self._machine.command(commands[state])
        self._state = "Paused" if state == "Paused" else "Running"


def main(words, vhosts):
    """Play Firecracker with its command line."""
    parser = argparse.ArgumentParser("firecracker", allow_abbrev=False)
    for name in ("--api-sock", "--id", "--level"):
        parser.add_argument(name, required=name == "--api-sock")
    given = parser.parse_args(words[1:])
    made = Firecracker(given.id, find_vhost(vhosts))
    try:
        serve_api(
            given.api_sock,
            read_fault(words[0]),
            made.answer,
            lambda message: {"fault_message": message},
        )
    finally:
        end(1)
