"""Root's Podman of a test, and how the person's half of the test uses it.

Root starts it with a separate store and hooks below ``base`` and runs what the
person's half asks for, as ``sudo podman`` would: a file ``N.ask`` has the words, and
``N.done`` gets the exit code and the output.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pwd import getpwnam, getpwuid

import pytest

from broker.host.launchers.podman.hooks import write_rootful
from shims.hooks.oci_rootful import PLACES
from tests.kit.eventually import eventually
from tests.kit.podman import root_directory, shared_words
from tests.kit.podman_store import CONF, STORAGE

MAPPED = 200000
USER = getpwuid(int(os.environ.get("SUDO_UID") or 0)).pw_name
if USER == "root":
    USER = "vitrail"
"""The person, as ``.ci/as-user`` chooses them."""
_ROOT = Path(__file__).parents[2]
IN_USER_NAMESPACE = (f"--uidmap=0:{MAPPED}:65536", f"--gidmap=0:{MAPPED}:65536")
# What the tests run with each: whether it runs here is tried once.
_TRIED = {
    "runc": ((), IN_USER_NAMESPACE),
    "crun": ((*IN_USER_NAMESPACE, "--privileged", "--pids-limit=-1"),),
}
_refusals: dict[str, str] = {}
"""Why a runtime runs nothing here, by its name; empty where it does."""
_VARIABLE = "VITRAIL_ROOTFUL_PODMAN"
PLACE = os.environ.get(_VARIABLE, "")
"""Root's directory for this run; empty where root has not started it."""
AS_PERSON = pytest.mark.skipif(not PLACE, reason="root's half of this file runs it")


@dataclass
class Rootful:
    """Root's half."""

    base: Path
    uid: int
    starter: tuple[str, ...] = ()
    """Words before ``podman``."""
    running: dict[Path, subprocess.Popen] = field(default_factory=dict)
    _left: list[str] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "CONTAINERS_CONF": str(self.base / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.base / "storage.conf"),
        }

    def serve(self, person: subprocess.Popen) -> None:
        """Run what the person's half asks for, until it ends."""
        while person.poll() is None:
            for ask in sorted((self.base / "asks").glob("*.ask")):
                words = json.loads(ask.read_text())
                ask.unlink()
                if isinstance(words, dict):
                    self.install(Path(words["runtime"]), Path(words["records"]))
                    _answer(ask, 0, "")
                    continue
                with ask.with_suffix(".out").open("wb") as out:
                    child = subprocess.Popen(
                        [*self.starter, "podman", *words],
                        env=self.env,
                        cwd="/",
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=out,
                    )
                self.running[ask] = child
            self._finish()
            time.sleep(0.05)

    def _finish(self) -> None:
        for ask, child in list(self.running.items()):
            if child.poll() is not None:
                del self.running[ask]
                text = ask.with_suffix(".out").read_text(errors="replace")
                _answer(ask, child.returncode, text)

    def install(self, runtime: Path, records: Path) -> None:
        """Write the hook, for the broker that has this runtime directory."""
        hooks, place = self.base / "hooks", self.base / "etc/vitrail"
        write_rootful(self.uid, runtime, [records], folder=hooks, place=place)

    def end(self) -> None:
        """Remove every container, and the mounts of the store."""
        groups = self._groups()
        clear = [*self.starter, "podman", "rm", "-af", "-t", "0"]
        subprocess.run(clear, env=self.env, capture_output=True, check=False)
        for child in self.running.values():
            child.wait(60)
        umount = ["umount", "--lazy", str(self.base / "store" / "overlay")]
        subprocess.run(umount, capture_output=True, check=False)
        self._left = [str(group) for group in groups if group.exists()]

    def remains(self) -> list[str]:
        """Leftovers of these containers on the machine, after their end."""
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        below = (f" {self.base}/", f" {PLACES}/")
        return [
            *self._left,
            *(line for line in mounts if any(place in line for place in below)),
            *(str(path) for path in Path(PLACES).glob("*")),
            *(str(path) for path in (self.base,) if path.exists()),
        ]

    def refusal(self, runtime: str) -> str:
        """Why it cannot run a container on this machine; empty where it can."""
        if not any(
            " cgroup2 " in line
            for line in Path("/proc/mounts").read_text().splitlines()
        ):
            return "there is no unified hierarchy of control groups"
        # Podman makes another user namespace then, and is not root's.
        if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
            return "this root cannot mount"
        for options in _TRIED[runtime]:
            root = self.base / ("mapped/root" if options else "root")
            words = [*self.starter, "podman", "run", "--rm", "--network=none"]
            words += [*options, *shared_words(), "--rootfs", f"{root}:O", "true"]
            done = subprocess.run(
                words,
                env=self.env,
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
                timeout=100,
            )
            if done.returncode != 0:
                return f"root's Podman runs no container here: {done.stderr[-300:]}"
        return ""

    def _groups(self) -> set[Path]:
        """The control groups of the containers that there are."""
        words = [*self.starter, "podman", "ps", "-aq", "--no-trunc"]
        done = subprocess.run(words, env=self.env, capture_output=True, check=False)
        wanted = {f"libpod-{number}" for number in done.stdout.decode().split()}
        top = Path("/sys/fs/cgroup")
        return {
            path
            for path in top.glob("**/libpod-*")
            if any(path.name.startswith(name) for name in wanted)
        }


def _answer(ask: Path, code: int, text: str) -> None:
    fresh = ask.with_suffix(".fresh")
    fresh.write_text(json.dumps([code, text]))
    fresh.rename(ask.with_suffix(".done"))


@contextmanager
def rootful_podman(user: str, runtime: str = "runc") -> Iterator[Rootful]:
    """Podman of root's with our hook, whose containers ``user``'s broker leases.

    Skips where it or the runtime is not installed, or can run no container.
    """
    missing = [name for name in ("podman", runtime) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    entry = getpwnam(user)
    base = Path(tempfile.mkdtemp(prefix="vt-pod-", dir="/tmp"))
    base.chmod(0o755)
    hooks = base / "hooks"
    conf = CONF.format(runtime=runtime) + f'hooks_dir = ["{hooks}"]\n'
    (base / "containers.conf").write_text(conf)
    (base / "storage.conf").write_text(STORAGE.format(base=base))
    (base / "asks").mkdir()
    os.chown(base / "asks", entry.pw_uid, entry.pw_gid)
    root_directory(base)
    # The same for a container whose root is this user outside.
    mapped = root_directory(base / "mapped")
    subprocess.run(["chown", "-R", f"{MAPPED}:{MAPPED}", mapped], check=True)
    # crun has no control groups of both versions; the second alone is the same tree.
    alone = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
    own = ("unshare", "-m", "--propagation", "private", "sh", "-c", alone, "sh")
    mixed = Path("/sys/fs/cgroup/unified").exists() and runtime == "crun"
    podman = Rootful(base, entry.pw_uid, own if mixed else ())
    try:
        if runtime not in _refusals:
            _refusals[runtime] = podman.refusal(runtime)
        if _refusals[runtime]:
            pytest.skip(_refusals[runtime])
        yield podman
    finally:
        podman.end()
        shutil.rmtree(base)


def persons_half(file: Path, case: str, runtime: str = "runc") -> None:
    """Root's half of a test: run one test of a file as the person, and serve it."""
    with rootful_podman(USER, runtime) as podman:
        # Relative: as-user may have copied the checkout to where the person can read it.
        test = str(file.relative_to(_ROOT))
        words = [".ci/as-user", "pytest", "-q", "-x", test, "-k", case]
        words += ["--only-rerun", "none: root's half does it again as a whole"]
        environ = {**os.environ, _VARIABLE: str(podman.base)}
        with (podman.base / "person.log").open("wb") as log:
            person = subprocess.Popen(
                words, cwd=_ROOT, env=environ, stdout=log, stderr=log
            )
            podman.serve(person)
        text = (podman.base / "person.log").read_text()
        print(text)
        if person.returncode == 0 and " skipped" in text and " passed" not in text:
            pytest.skip(f"the person's half is skipped: {text[-300:]}")
        assert person.returncode == 0
        assert "1 passed" in text
    assert podman.remains() == []


class Asker:
    """The person's half: words for root's podman."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._count = 0

    async def install(self, w) -> None:
        """Have the hook written for the broker of a world."""
        records = w.paths.config[0] / "sandboxes.d"
        place = {"runtime": str(w.paths.runtime.parent), "records": str(records)}
        await self.end(self._ask(place))

    def begin(self, *words: str) -> Path:
        """Have podman started; returns where its end will be reported."""
        return self._ask(words)

    def _ask(self, words) -> Path:
        self._count += 1
        ask = self.base / "asks" / f"{self._count:04}.ask"
        fresh = ask.with_suffix(".new")
        fresh.write_text(json.dumps(words))
        fresh.rename(ask)
        return ask.with_suffix(".done")

    async def end(self, done: Path) -> tuple[int, str]:
        """Wait for its end; returns exit code and output."""
        await eventually(done.exists, deadline=120)
        code, text = json.loads(done.read_text())
        return code, text

    async def run(self, *words: str) -> tuple[int, str]:
        """Run it to its end."""
        return await self.end(self.begin(*words))
