"""A stand-in for Cloud Hypervisor: its API as its OpenAPI file documents it.

Errors are as a late version writes them: a JSON array of causes.  Standard library
only.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from tests.kit.vm.monitors.backend import Machine, end, find_vhost, from_host, listen
from tests.kit.vm.monitors.http_api import RefusedError, read_fault, serve_api, take

_MIB = 1 << 20
_CONFIG = {
    "cpus": dict,
    "memory": dict,
    "disks": list,
    "net": list,
    "rng": dict,
    "balloon": dict,
    "fs": list,
    "serial": dict,
    "console": dict,
    "vsock": dict,
    "platform": dict,
    "watchdog": bool,
    "pvpanic": bool,
}
_DISK = {
    "readonly": bool,
    "direct": bool,
    "serial": str,
    "id": str,
    "image_type": str,
    "num_queues": int,
    "queue_size": int,
}


class CloudHypervisor:
    """The state of the API."""

    def __init__(self, vhost):
        self._vhost = vhost
        self._machine = None
        self._state = None
        self._config = None
        self._lock = threading.Lock()

    def answer(self, method, path, body):
        with self._lock:
            return self._answer(method, path, body)

    def _answer(self, method, path, body):
        known = {
            ("GET", "vmm.ping"): lambda: {"version": "v48.0"},
            ("GET", "vm.info"): self._info,
            ("PUT", "vm.create"): lambda: self._create(body),
            ("PUT", "vm.boot"): self._boot,
            ("PUT", "vm.pause"): lambda: self._move("Running", "stop", "Paused"),
            ("PUT", "vm.resume"): lambda: self._move("Paused", "cont", "Running"),
            ("PUT", "vm.power-button"): self._press,
            ("PUT", "vmm.shutdown"): self._quit,
        }
        prefix, _, name = path.rpartition("/")
        if prefix != "/api/v1" or (method, name) not in known:
            raise RefusedError("Not Found", 404)
        if body is not None and name != "vm.create":
            raise RefusedError("Bad Request")
        return known[method, name]()

    def _info(self):
        if self._state is None:
            raise RefusedError("VM is not created", 404)
        return {"config": self._config, "state": self._state}

    def _create(self, body):
        if self._state is not None:
            raise RefusedError("VM is already created", 500)
        take(body, {"payload": dict}, _CONFIG)
        payload = take(
            body["payload"],
            {},
            {"firmware": str, "kernel": str, "cmdline": str, "initramfs": str},
        )
        cpus = take(
            body.get("cpus", {"boot_vcpus": 1, "max_vcpus": 1}),
            {"boot_vcpus": int, "max_vcpus": int},
        )
        memory = take(
            body.get("memory", {"size": 512 * _MIB}),
            {"size": int},
            {"shared": bool, "hugepages": bool, "prefault": bool, "mergeable": bool},
        )
        if memory["size"] % _MIB or not 1 <= cpus["boot_vcpus"] <= cpus["max_vcpus"]:
            raise RefusedError("invalid size", 500)
        made = Machine()
        made.ends_by_reset = False
        made.memory_mib = memory["size"] // _MIB
        made.cpus = cpus["boot_vcpus"]
        made.kernel = payload.get("kernel", "")
        made.initrd = payload.get("initramfs", "")
        made.cmdline = payload.get("cmdline", "")
        for disk in body.get("disks", []):
            take(disk, {"path": str}, _DISK)
            if disk.get("image_type", "Raw") not in ("Raw", "Qcow2"):
                raise RefusedError("unknown variant of image_type")
            serial = disk.get("serial", "")
            made.disks.append((disk["path"], disk.get("readonly", False), serial))
        for interface in body.get("net", []):
            take(interface, {"tap": str}, {"mac": str, "mtu": int, "num_queues": int})
            made.taps.append((interface["tap"], interface.get("mac")))
        vsock = take(body.get("vsock", {}), {"cid": int, "socket": str}, {"id": str})
        if vsock["cid"] < 3:
            raise RefusedError("invalid cid", 500)
        made.cid, made.uds = vsock["cid"], vsock["socket"]
        take(
            body.get("balloon", {"size": 0}),
            {"size": int},
            {
                "deflate_on_oom": bool,
                "free_page_reporting": bool,
            },
        )
        take(body.get("rng", {"src": ""}), {"src": str})
        for key, modes in (("serial", ("Tty", "Null", "Off")), ("console", ("Off",))):
            mode = take(body.get(key, {"mode": "Off"}), {"mode": str}, {"file": str})
            if mode["mode"] not in modes:
                raise RefusedError(f"the stand-in has no {key} of mode {mode['mode']}")
        self._machine, self._state, self._config = made, "Created", body

    def _boot(self):
        if self._state is None:
            raise RefusedError("VM is not created", 404)
        if self._state != "Created":
            raise RefusedError("VM is already running", 500)
        for path in (self._machine.kernel, self._machine.initrd):
            if not Path(path).is_file():
                raise RefusedError(f"cannot open {path}", 500)
        from_host(listen(self._machine.uds))
        self._machine.start(vhost=self._vhost)
        self._state = "Running"

    def _move(self, before, command, after):
        if self._state is None:
            raise RefusedError("VM is not created", 404)
        if self._state != before:
            raise RefusedError(f"VM is not {before}", 405)
        self._machine.command(command)
        self._state = after

    def _press(self):
        if self._state is None:
            raise RefusedError("VM is not created", 404)
        if self._state != "Running":
            raise RefusedError("VM is not booted", 405)
        self._machine.command("system_powerdown")

    def _quit(self):
        # The reply goes first.
        threading.Timer(0.05, end, (0,)).start()


def main(words, vhosts):
    """Play Cloud Hypervisor with its command line."""
    parser = argparse.ArgumentParser("cloud-hypervisor", allow_abbrev=False)
    parser.add_argument("--api-socket", required=True)
    given = parser.parse_args(words[1:])
    made = CloudHypervisor(find_vhost(vhosts))
    try:
        serve_api(
            given.api_socket.removeprefix("path="),
            read_fault(words[0]),
            made.answer,
            lambda message: ["Error from API", message],
        )
    finally:
        end(1)
