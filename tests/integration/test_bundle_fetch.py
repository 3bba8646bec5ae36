"""Bundles from a web server: by ETag, proved by their signature alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from broker.cli.policy.bundles import fetch as fetching
from broker.cli.policy.bundles import rollout
from broker.core.errors import RefusedError
from policy.tools.bundles.bundle import BundleError
from policy.tools.bundles.index import RolloutIndex
from tests.kit.brokerctl import Answer, called, home


class Server:
    """Serves one file and those beside it; counts how often it sent it whole."""

    def __init__(self) -> None:
        self.content, self.tag, self.sent = b"", '"1"', 0
        self.beside: dict[str, Path] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                beside = outer.beside.get(self.path.strip("/"))
                if beside is not None:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(beside.read_bytes())
                    return
                same = self.headers.get("If-None-Match") == outer.tag
                self.send_response(304 if same else 200)
                self.send_header("ETag", outer.tag)
                self.end_headers()
                if not same:
                    outer.sent += 1
                    self.wfile.write(outer.content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/site.bundle"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_bundle_is_fetched_once_and_a_changed_one_is_not_taken(
    tmp_path: Path, server: Server
) -> None:
    with home() as env:

        def brokerctl(*words: str) -> Answer:
            return called("policy", "bundle", *words, env=env)

        key = brokerctl("key", str(tmp_path / "key"))
        trust = ("--trust", key.out.strip())
        site, base = tmp_path / "site", tmp_path / "etc"
        (site / "policy.d").mkdir(parents=True)
        base.mkdir()

        def sign(version: int, text: str) -> bytes:
            (site / "policy.d/30-site.policy").write_text(text)
            out = tmp_path / f"{version}.bundle"
            signed = brokerctl(
                *("sign", str(site), "--key", str(tmp_path / "key"), "--name", "site"),
                *("--version", str(version), "-o", str(out)),
            )
            assert signed.code == 0, signed.err
            return out.read_bytes()

        rule = "vitrail.OpenURL * @anyvm @anyvm deny\n"
        server.content = sign(1, rule)
        fetch = ("fetch", server.url, "--to", str(base), *trust)
        assert brokerctl(*fetch).code == 0
        assert (base / "policy.d/30-site.policy").read_text() == rule
        again = brokerctl(*fetch)
        assert again.code == 0
        assert "already up to date" in again.err
        assert server.sent == 1
        # Changed on its way, then longer than a bundle may be: the rules stay.
        second = sign(2, f"# two\n{rule}")
        for wrong in (second.replace(b"# two", b"# 2wo"), b"x" * (64 << 20), b""):
            server.content, server.tag = wrong, f'"{len(wrong)}"'
            assert brokerctl(*fetch).code == 1
            assert (base / "policy.d/30-site.policy").read_text() == rule
        server.content = second
        assert brokerctl(*fetch).code == 0
        assert (base / "policy.d/30-site.policy").read_text() == f"# two\n{rule}"
        # An older one is not taken back.
        server.content, server.tag = sign(1, rule), '"old"'
        assert brokerctl(*fetch).code == 1
        # A server that has been silent for weeks: who calls is told, now and then.
        state = base / ".bundles/fetched.state"
        kept = json.loads(state.read_text())
        assert "days old" not in brokerctl(*fetch).err
        state.write_text(
            json.dumps({**kept, "answered": kept["answered"] - 20 * 86400})
        )
        assert "is 20 days old" in brokerctl(*fetch).err
        away = brokerctl("fetch", "http://policy.example/x", "--to", str(base), *trust)
        assert away.code == 1
        assert "https" in away.err


def test_machines_of_a_fleet_do_not_ask_in_one_second(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", waits.append)
    for _ in range(8):
        fetching.fetch(fetching.BundleServer(tmp_path, server.url, "", ()), 600)
    assert all(0 <= wait <= 600 for wait in waits)
    assert len(set(waits)) == 8


RULE = "vitrail.OpenURL * @anyvm @anyvm deny\n"


class Site:
    """Who signs bundles and indexes, and machines that fetch them."""

    def __init__(self, directory: Path, server: Server, env: dict[str, str]) -> None:
        self.directory, self.server, self.env = directory, server, env
        self.keys: dict[str, str] = {}
        self.number = 0
        (directory / "site/policy.d").mkdir(parents=True)
        for name in ("one", "two", "rollout"):
            made = self.brokerctl("key", str(directory / name))
            self.keys[name] = made.out.strip()
        trusted = Path(env["HOME"]) / ".config/vitrail/bundle.keys"
        trusted.parent.mkdir(parents=True)
        trusted.write_text(
            f"site {self.keys['one']}\nrollout {self.keys['rollout']} site/index\n"
        )
        trusted.chmod(0o644)

    def brokerctl(self, *words: str) -> Answer:
        return called("policy", "bundle", *words, env=self.env)

    def sign(self, version: int, key: str = "one", *more: str) -> Path:
        text = f"# {version}\n{RULE}"
        (self.directory / "site/policy.d/30-site.policy").write_text(text)
        out = self.directory / f"b{version}"
        signed = self.brokerctl(
            *("sign", str(self.directory / "site"), "--key", str(self.directory / key)),
            *("--name", "site", "--version", str(version), "-o", str(out), *more),
        )
        assert signed.code == 0, signed.err
        self.server.beside[out.name] = out
        return out

    def index(self, *words: str, key: str = "rollout") -> bytes:
        out = self.directory / "index"
        made = self.brokerctl(
            *("index", "--key", str(self.directory / key), "-o", str(out), *words)
        )
        assert made.code == 0, made.err
        self.publish(out.read_bytes())
        return out.read_bytes()

    def publish(self, content: bytes) -> None:
        self.number += 1
        self.server.content, self.server.tag = content, f'"i{self.number}"'

    def fetch(self, ring: str) -> tuple[Answer, str]:
        """Fetch on the ring's machine; the version that it has then."""
        base = self.directory / f"etc-{ring}"
        base.mkdir(exist_ok=True)
        answer = self.brokerctl(
            "fetch", self.server.url, "--to", str(base), "--ring", ring
        )
        file = base / "policy.d/30-site.policy"
        return answer, file.read_text().split("\n")[0] if file.exists() else ""


@pytest.fixture
def site(tmp_path: Path, server: Server) -> Iterator[Site]:
    with home() as env:
        yield Site(tmp_path, server, env)


def test_rings_get_their_bundles_in_their_time(site: Site) -> None:
    for version in (1, 2):
        site.sign(version)
    rings = (f"canary={site.directory}/b2", f"all={site.directory}/b1")
    first = site.index("--ring", rings[0], "--ring", rings[1])
    assert site.fetch("canary")[1] == "# 2"
    assert site.fetch("all")[1] == "# 1"
    none, text = site.fetch("third")
    assert none.code == 1
    assert "the index has no ring 'third'; it has all, canary" in none.err
    assert text == ""
    # Later, for all: the same answer of the server is enough when the time has come.
    both = [
        word
        for one in (rings[0], f"all={site.directory}/b2")
        for word in ("--ring", one)
    ]
    site.index(*both, "--not-before", "all=+1h")
    for _ in range(2):
        waits, text = site.fetch("all")
        assert (waits.code, text) == (0, "# 1"), waits.err
        assert "will be applied after" in waits.err
    # Somebody gives out the index from before, or one that has expired since.
    site.publish(first)
    old, text = site.fetch("all")
    assert (old.code, text) == (1, "# 1")
    assert "is lower than" in old.err
    site.index(*both, "--expires", "-1s")
    expired, text = site.fetch("all")
    assert (expired.code, text) == (1, "# 1")
    assert "expired" in expired.err
    site.index(*both)
    assert site.fetch("all")[1] == "# 2"
    assert "already up to date" in site.fetch("all")[0].err


@pytest.mark.parametrize("indexed", [True, False])
def test_rules_that_are_missing_or_changed_are_not_up_to_date(
    site: Site, indexed: bool
) -> None:
    """A timer would report success, and the machine has other rules than its fleet."""
    bundle = site.sign(1)
    if indexed:
        site.index("--ring", f"all={bundle}")
    else:
        site.publish(bundle.read_bytes())
    assert site.fetch("all")[1] == "# 1"
    file = site.directory / "etc-all/policy.d/30-site.policy"
    file.unlink()
    assert site.fetch("all")[1] == "# 1"
    file.write_text("* * @anyvm @anyvm allow\n")
    changed, _ = site.fetch("all")
    assert changed.code == 1
    assert "changed or created on this machine" in changed.err


def test_a_bundle_that_was_put_back_can_still_be_returned_from(site: Site) -> None:
    for version in (1, 2):
        site.index("--ring", f"all={site.sign(version)}")
        assert site.fetch("all")[1] == f"# {version}"
    (site.directory / "etc-all/policy.d/30-site.policy").unlink()
    assert site.fetch("all")[1] == "# 2"
    site.index("--ring", f"all={site.directory}/b1")
    assert site.fetch("all")[1] == "# 1"


def test_index_returns_by_one_bundle_and_its_key_signs_none(site: Site) -> None:
    for version in (1, 2, 3):
        site.sign(version)
        site.index("--ring", f"all={site.directory}/b{version}")
        assert site.fetch("all")[1] == f"# {version}"
    site.index("--ring", f"all={site.directory}/b1")
    far, text = site.fetch("all")
    assert (far.code, text) == (1, "# 3")
    assert "version 1 is older" in far.err
    site.index("--ring", f"all={site.directory}/b2")
    back, text = site.fetch("all")
    assert (back.code, text) == (0, "# 2")
    assert "was restored" in back.err
    site.index("--ring", f"all={site.directory}/b1")
    assert site.fetch("all")[1] == "# 2"
    # Another bundle in the place of the one that the index names.
    site.index("--ring", f"all={site.directory}/b3")
    site.server.beside["b3"] = site.directory / "b1"
    other, text = site.fetch("all")
    assert (other.code, text) == (1, "# 2")
    assert "it is not the version of" in other.err
    # The index's key is on a server; it is not one of bundles.
    site.sign(4, "rollout")
    site.index("--ring", f"all={site.directory}/b4")
    forged, text = site.fetch("all")
    assert (forged.code, text) == (1, "# 2")
    assert "may not sign 'site'" in forged.err
    # A server gives out a bundle in the place of the index, before its ring's time.
    site.publish((site.directory / "b3").read_bytes())
    bare, text = site.fetch("all")
    assert (bare.code, text) == (1, "# 2")
    assert "sent an index before" in bare.err


def test_index_of_a_time_to_come_is_not_followed(tmp_path: Path) -> None:
    """Attack: it would stay the newest one after its key was revoked."""
    index = RolloutIndex("site", int(time.time()) + 90000, {}, 1)
    with pytest.raises(BundleError, match="after this machine's clock"):
        fetching._keep_index(tmp_path, index, b"")


def test_bundle_changes_keys_and_revokes_the_old_one(site: Site) -> None:
    for version, key in ((1, "one"), (2, "one")):
        signer = ("--signer", site.keys["two"]) if version == 2 else ()
        site.sign(version, key, *signer)
        site.publish((site.directory / f"b{version}").read_bytes())
        assert site.fetch("all")[1] == f"# {version}"
    site.sign(3, "one")
    site.publish((site.directory / "b3").read_bytes())
    stolen, text = site.fetch("all")
    assert (stolen.code, text) == (1, "# 2")
    assert "may not sign 'site'" in stolen.err
    site.sign(3, "two")
    site.publish((site.directory / "b3").read_bytes())
    assert site.fetch("all")[1] == "# 3"
    # Its index goes with it, and the bundle before, of the old key, may still return.
    site.sign(4, "two", "--signer", site.keys["two"])
    site.index("--ring", f"all={site.directory}/b4", key="rollout")
    assert site.fetch("all")[0].code == 1
    site.index("--ring", f"all={site.directory}/b4", key="two")
    assert site.fetch("all")[1] == "# 4"


def test_key_that_is_revoked_for_one_directory_is_revoked_for_all(site: Site) -> None:
    """Attack: who has the old key asks a machine to fetch into another directory."""
    etc = Path(site.env["HOME"]) / ".config/vitrail"
    for version, signer in ((1, ()), (2, ("--signer", site.keys["two"]))):
        bundle = site.sign(version, "one", *signer)
        site.publish(bundle.read_bytes())
        fetched = site.brokerctl("fetch", site.server.url, "--to", str(etc))
        assert fetched.code == 0, fetched.err
    site.publish(site.sign(3, "one").read_bytes())
    stolen, text = site.fetch("all")
    assert (stolen.code, text) == (1, "")
    assert "may not sign 'site'" in stolen.err
    site.publish(site.sign(3, "two").read_bytes())
    assert site.fetch("all")[1] == "# 3"


def test_index_that_was_signed_meanwhile_is_not_signed_over(site: Site) -> None:
    """``watch`` asks the database for seconds, and an administrator signs by then."""
    for version in (1, 2):
        site.sign(version, "one")
    rings = (
        "--ring",
        f"canary={site.directory}/b2",
        "--ring",
        f"all={site.directory}/b1",
    )
    index, key = site.directory / "index", site.directory / "rollout"
    site.index(*rings)
    looked_at = rollout._index_in(index)
    newer = site.index(*rings)
    with pytest.raises(RefusedError, match="in the meantime"):
        rollout._sign_back(looked_at, index, key, {"canary": looked_at.rings["all"]})
    assert index.read_bytes() == newer
    rollout._sign_back(
        rollout._index_in(index), index, key, {"canary": looked_at.rings["all"]}
    )
    assert rollout._index_in(index).rings["canary"].version == 1


def test_ring_does_not_return_to_what_comes_later(site: Site) -> None:
    site.sign(2, "one")
    site.index(
        *(
            "--ring",
            f"canary={site.directory}/b2",
            "--ring",
            f"all={site.directory}/b2",
        ),
        *("--not-before", "all=2126-01-01"),
    )
    answer = site.brokerctl(
        *("watch", str(site.directory / "index"), "--store", "postgresql:///nowhere"),
        *("--key", str(site.directory / "rollout")),
    )
    assert answer.code == 1
    assert "does not have version 2 yet" in answer.err
