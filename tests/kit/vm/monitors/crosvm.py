"""A stand-in for crosvm: its command line as ``crosvm run --help`` documents it.

The protocol of the control socket is its own business, as the real one's is: the
verbs speak it with each other.  Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time

from tests.kit.vm.monitors.backend import Machine, end
from tests.kit.vm.monitors.http_api import read_fault

VERBS = {"resume": "cont", "powerbtn": "system_powerdown", "stop": "quit"}
INVALID = 35


def pairs(text, known, *, first=""):
    """Take ``key=value,…`` apart, as crosvm does: an unknown key is an error."""
    found = {}
    for number, part in enumerate(text.split(",")):
        key, equals, value = part.partition("=")
        if not equals and not number and first:
            key, value = first, part
        if key not in known:
            sys.stderr.write(f"unknown option {key}\n")
            end(INVALID)
        found[key] = value
    return found


def run(words, faults):
    """Play ``crosvm run``."""
    parser = argparse.ArgumentParser("crosvm run", allow_abbrev=False)
    for name in ("disable-sandbox", "suspended-vcpus", "no-usb"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--balloon-page-reporting", action="store_true")
    for name in ("socket", "cpus", "mem", "serial", "vhost-user", "initrd", "params"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--block", action="append", default=[])
    parser.add_argument("--net", action="append", default=[])
    parser.add_argument("kernel")
    given = parser.parse_args(words)
    machine = Machine()
    machine.ends_by_reset = False
    machine.exits = {"SHUTDOWN": 0, "RESET": 32}
    machine.cpus, machine.memory_mib = int(given.cpus), int(given.mem)
    machine.kernel, machine.initrd = given.kernel, given.initrd
    pairs(given.serial, ("type", "hardware", "num", "console", "stdin"))
    machine.cmdline = f"console=ttyS0 {given.params}"
    vsock = pairs(given.vhost_user, ("type", "socket"), first="type")
    if vsock["type"] != "vsock":
        end(INVALID)
    machine.vsock = vsock["socket"]
    for text in given.block:
        disk = pairs(text, ("path", "ro", "id", "sparse", "direct"), first="path")
        read_only = disk.get("ro", "false") in ("", "true")
        if len(disk.get("id", "")) > 20:
            end(INVALID)
        machine.disks.append((disk["path"], read_only, disk.get("id", "")))
    for text in given.net:
        found = pairs(text, ("tap-name", "mac"))
        mac = found.get("mac")
        machine.taps.append((found["tap-name"], mac and json.loads(mac)))
    if faults.get("start") == "die":
        end(3)
    if faults.get("start") == "link":
        os.symlink("/run/elsewhere", given.socket)
    if faults.get("start") in ("link", "silent"):
        time.sleep(1000)
    machine.start_qemu(paused=given.suspended_vcpus)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(given.socket)
    listener.listen(8)
    while True:
        conn, _ = listener.accept()
        with conn:
            serve(conn, machine, faults)


def serve(conn, machine, faults):
    """Answer one verb, or misbehave."""
    verb = conn.recv(100).decode()
    if not verb:
        return
    fault = faults.get(verb)
    if fault == "die":
        end(3)
    if fault == "silent":
        time.sleep(1000)
    if fault in (None, "refuse"):
        conn.send(b"refused" if fault else b"ok")
    if fault == "garbage":
        conn.send(b"\xff\x00garbage")
    if fault is None:
        machine.command(VERBS[verb])


def ask(verb, path):
    """Play the other verbs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as conn:
        conn.connect(path)
        conn.send(verb.encode())
        if conn.recv(100) != b"ok":
            sys.stderr.write("the request was refused, \x1b[31m always\n")
            sys.exit(1)


def main(words, _vhosts):
    """Play crosvm with its command line."""
    if words[1] in VERBS:
        ask(words[1], words[2])
        return
    try:
        run(words[2:], read_fault(words[0]))
    finally:
        end(1)
