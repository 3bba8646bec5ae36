"""First program of a test's VM: a shell for the test, on a vsock port.

Reads lines of JSON ({"number", "command", "user"}) from CID 2, port 7000, or with the
word ``port`` from a virtio-serial port, runs each with sh and answers with a line
({"number", "code", "output"}).  A command that hangs holds up no other.  Nothing here is
trusted by anything: it is the test's hand inside its own machine.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time

PORT = 7000
SERIAL = "/dev/virtio-ports/shell"


def mount_all():
    for what, where, kind in (
        ("tmpfs", "/tmp", "tmpfs"),
        ("tmpfs", "/run", "tmpfs"),
        ("devpts", "/dev/pts", "devpts"),
        ("shm", "/dev/shm", "tmpfs"),
    ):
        os.makedirs(where, exist_ok=True)
        subprocess.run(["mount", "-t", kind, what, where], check=False)
    os.chmod("/tmp", 0o1777)


def prepare():
    # The brokers start their programs without our PYTHONPATH.
    site = "/usr/local/lib/python3.11/dist-packages"
    os.makedirs(site, exist_ok=True)
    subprocess.run(["mount", "--bind", "/srv/site", site], check=False)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    subprocess.run(["useradd", "-m", "-d", "/run/vit", "vit"], check=False)
    os.makedirs("/run/user/vit", mode=0o700, exist_ok=True)
    subprocess.run(["chown", "vit:", "/run/user/vit"], check=False)


def connect():
    while True:
        sock = socket.socket(socket.AF_VSOCK)
        try:
            sock.connect((2, PORT))
            return sock
        except OSError:
            sock.close()
            time.sleep(0.2)


def run(order):
    user = order.get("user", "vit")
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/run/vit",
        "XDG_RUNTIME_DIR": "/run/user/vit",
        "PYTHONPATH": "/srv",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
        **order.get("env", {}),
    }
    words = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"]
    words = words if user != "root" else []
    done = subprocess.run(
        [*words, "sh", "-c", order["command"]],
        env=env,
        cwd="/tmp",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    output = base64.b64encode(done.stdout).decode()
    return {"code": done.returncode, "output": output}


def answer(lines, answers):
    turn = threading.Lock()

    def carry_out(order):
        said = json.dumps({"number": order["number"], **run(order)})
        with turn:
            answers.write(said.encode() + b"\n")
            answers.flush()

    for line in lines:
        threading.Thread(target=carry_out, args=[json.loads(line)], daemon=True).start()


def main():
    if "port" in sys.argv:  # a system that lacks nothing
        port = os.open(SERIAL, os.O_RDWR)
        with os.fdopen(port, "rb") as lines, os.fdopen(os.dup(port), "wb") as answers:
            answer(lines, answers)
        return
    if "systemd" not in sys.argv:  # which has done that
        mount_all()
    prepare()
    sock = connect()
    with sock.makefile("rwb") as lines:
        answer(lines, lines)
    os.sync()


if __name__ == "__main__":
    main()
