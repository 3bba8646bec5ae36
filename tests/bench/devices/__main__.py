"""How soon a plugged-in stick is a sandbox's, and how fast it is read there.

    python -m tests.bench.devices [--json FILE] [--repeats NUMBER]

Two VMs with Debian's ordinary kernel, emulated where there is no KVM:

* *plug to guest*: from QMP's ``device_add`` at the host VM to the listing in
  ``vitrail-devices``, to the end of the attach, and to the disk in the sibling, whose
  vsock is carried between the VMs by a relay of the test;
* *usbip over vsock, over TCP*: both kernels' ends in one VM, over vsock's loopback and
  over 127.0.0.1, in turns: 16 MiB in reads of 1 MiB, 200 reads of 4 KiB, all direct.

One second of each "disk" is usb-storage's own ``delay_use``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import trio

from tests.bench.devices.guest import SMALL_READS
from tests.kit.result_file import result_file
from tests.kit.usb.vms import eventually, usb_machines

_RECORDS = """\
[[device]]
sandboxes = ["app"]
with-interface = { op = "match-all", values = ["08:*:*"] }
"""
_SHIM = "PYTHONPATH=/srv setsid python3 -m shims.usb.usb_devices >/tmp/shim.log 2>&1 &"


async def plug_to_guest(host, app, image: Path, repeats: int) -> list[dict]:
    found = []
    await host.start_service(_RECORDS)
    async with host.hand() as hand:
        await app.run(_SHIM, user="root")
        for number in range(repeats):
            began = time.monotonic()
            await host.stick(f"p{number}", 1, image)
            item = await hand.ask("port", port="2-1")
            listed = time.monotonic() - began
            made = await hand.ask("hold", number=item["number"])
            attached = time.monotonic() - began
            await eventually(app, "test -b /dev/sda")
            disk = time.monotonic() - began
            found.append({"listed": listed, "attached": attached, "disk": disk})
            print(found[-1], flush=True)
            await hand.ask("detach", attachment=made["attachment"])
            await eventually(app, "! test -e /dev/sda")
            await host.unplug_stick(f"p{number}")
            await hand.ask("empty", port="2-1")
            await trio.sleep(2.5)  # not "plugged too often"
    await host.kill_service()
    return found


async def sockets(host, image: Path, repeats: int) -> list[dict]:
    await host.stick("q", 2, image)
    await eventually(host.guest, "test -e /sys/bus/usb/devices/2-2/devnum")
    found = []
    for _ in range(repeats):
        words = "python3 /srv/extra/bench_guest.py 2-2 1"
        text = await host.guest.run(words, user="root", deadline=900)
        lines = (line for line in text.splitlines() if line.startswith("{"))
        turn = [json.loads(line) for line in lines]
        print(turn, flush=True)
        found += turn
    return found


async def run(repeats: int) -> dict[str, list[dict]]:
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "stick.img"
        image.write_bytes(os.urandom(16 << 20))
        guest = {"bench_guest.py": Path(__file__).with_name("guest.py")}
        modules = ("vhci_hcd", "vsock_loopback")
        async with usb_machines(extra=guest, modules=modules) as (host, app, _lab):
            return {
                "plug to guest": await plug_to_guest(host, app, image, repeats),
                "sockets": await sockets(host, image, repeats),
            }


def _median(rows: list[dict], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def show(raw: dict[str, list[dict]]) -> None:
    """Print medians."""
    plugs = raw["plug to guest"]
    print(f"plug to guest, {len(plugs)} times, seconds since device_add (median)")
    for name in ("listed", "attached", "disk"):
        print(f"  {name:12}{_median(plugs, name):8.3f}")
    print(f"{'usbip over':12}{'attach s':>10}{'disk s':>8}{'MB/s':>8}{'4 KiB ms':>10}")
    for kind in ("vsock", "tcp"):
        rows = [row for row in raw["sockets"] if row["kind"] == kind]
        rate = (16 << 20) / 1e6 / _median(rows, "large")
        small = _median(rows, "small") / SMALL_READS * 1000
        print(
            f"{kind:12}{_median(rows, 'attached'):10.3f}{_median(rows, 'disk'):8.2f}"
            f"{rate:8.1f}{small:10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    raw = trio.run(run, options.repeats)
    show(raw)
    if options.json:
        options.json.write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
