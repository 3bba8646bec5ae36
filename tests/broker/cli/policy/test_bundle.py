"""``brokerctl policy bundle``: from one machine to another, and never back."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from broker.cli.policy.bundles import verbs
from broker.cli.policy.verbs import command
from broker.core.errors import RefusedError

RULES = "a * work vault deny\na * @anyvm @anyvm ask\n"


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    for folder in ("src/policy.d", "src/sandboxes.d", "home/.config/vitrail"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "src/policy.d/30-site.policy").write_text(RULES)
    (tmp_path / "src/sandboxes.d/work.toml").write_text('class = "persistent"\n')
    for folder in (tmp_path, *tmp_path.rglob("*")):
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))

    def run(*words):
        done = CliRunner().invoke(command, ["bundle", *map(str, words)])
        if isinstance(done.exception, RefusedError):
            return 1, f"{done.exception} {done.exception.hint}"
        assert isinstance(done.exception, SystemExit | None), done.exception
        return done.exit_code, done.stdout + done.stderr

    run.base = tmp_path
    run.source, run.home = tmp_path / "src", tmp_path / "home/.config/vitrail"
    code, out = run("key", tmp_path / "key.pem")
    assert code == 0, out
    (run.home / "bundle.keys").write_text(f"acme {out.splitlines()[0]}\n")
    (run.home / "bundle.keys").chmod(0o644)

    def signed(version, name="acme"):
        file = tmp_path / f"{name}-{version}.bundle"
        words = ["--key", tmp_path / "key.pem", "--name", name, "--version", version]
        code, out = run("sign", run.source, *words, "-o", file)
        assert code == 0, out
        return file

    run.signed = signed
    return run


def test_each_step_has_json(run):
    code, out = run("key", run.base / "second.pem", "--json")
    assert code == 0
    told = json.loads(out.splitlines()[0])
    assert told["file"] == str(run.base / "second.pem")
    assert told["public"].startswith("ed25519:")
    words = ["--key", run.base / "second.pem", "--name", "acme", "--version", "7"]
    code, out = run("sign", run.source, *words, "-o", run.base / "b", "--json")
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith("{")]
    told = json.loads(line)
    assert (told["name"], told["version"], told["to"]) == (
        "acme",
        7,
        str(run.base / "b"),
    )
    assert told["files"]


def test_the_whole_way(run):
    """Signed, verified, applied; a second time changes nothing."""
    file = run.signed(1)
    code, out = run("verify", "--json", file)
    assert code == 0, out
    found = json.loads(out.splitlines()[0])
    assert (found["name"], found["version"], found["signer"]) == ("acme", 1, "acme")
    code, out = run("apply", file, "--dry-run")
    assert code == 0, out
    assert "record work: none → can be used" in out
    assert not (run.home / "policy.d").exists()
    code, out = run("apply", file)
    assert code == 0, out
    assert (run.home / "policy.d/30-site.policy").read_text() == RULES
    code, out = run("apply", file, "--json")
    assert code == 0
    assert json.loads(out.splitlines()[0])["files"] == []


def test_a_later_version_replaces_and_removes(run):
    """Files that the bundle no longer has are removed; other files stay."""
    run("apply", run.signed(1))
    mine = run.home / "policy.d/20-mine.policy"
    mine.write_text("b * work vault deny\n")
    (run.source / "sandboxes.d/work.toml").unlink()
    (run.source / "policy.d/30-site.policy").write_text("a * * * deny\n")
    code, out = run("apply", run.signed(2))
    assert code == 0, out
    assert not (run.home / "sandboxes.d/work.toml").exists()
    assert mine.exists()
    assert (run.home / "policy.d/30-site.policy").read_text() == "a * * * deny\n"


def test_never_backwards(run):
    """An older one, and another of the same version, are refused."""
    old = run.signed(1)
    (run.source / "policy.d/30-site.policy").write_text("a * * * deny\n")
    two = run.signed(2)
    assert run("apply", two)[0] == 0
    code, out = run("apply", old)
    assert code == 1
    assert "version 1 is older than the applied version 2" in out
    (run.source / "policy.d/30-site.policy").write_text("a * * * allow\n")
    code, out = run("apply", run.signed(2))
    assert code == 1
    assert "can be used only once" in out
    assert (run.home / "policy.d/30-site.policy").read_text() == "a * * * deny\n"


def test_local_changes_are_not_overwritten(run):
    """Unless it is said."""
    run("apply", run.signed(1))
    file = run.home / "policy.d/30-site.policy"
    file.write_text("a * work vault allow\n")
    (run.source / "policy.d/30-site.policy").write_text("a * * * deny\n")
    two = run.signed(2)
    code, out = run("apply", two)
    assert code == 1
    assert "files that were changed or created on this machine" in out
    assert file.read_text() == "a * work vault allow\n"
    assert run("apply", "--replace", two)[0] == 0
    assert file.read_text() == "a * * * deny\n"


def test_a_file_of_yours_in_its_place(run):
    """Made here before the first bundle: refused as well."""
    (run.home / "policy.d").mkdir(mode=0o755)
    (run.home / "policy.d/30-site.policy").write_text("a * * * deny\n")
    assert run("apply", run.signed(1))[0] == 1


def test_a_bundle_without_a_trusted_key_is_refused(run):
    """Without the file of keys, with another key, and by --trust."""
    file = run.signed(1)
    keys = run.home / "bundle.keys"
    public = keys.read_text().split()[1]
    keys.unlink()
    code, out = run("apply", file)
    assert code == 1
    assert "does not trust any key" in out
    _, other = run("key", run.base / "other.pem")
    code, out = run("apply", "--trust", other.splitlines()[0], file)
    assert code == 1
    assert "not trusted" in out
    assert run("apply", "--trust", public, file)[0] == 0


def test_keys_that_others_may_write_are_not_read(run):
    """A user who can write them decides which bundles are applied."""
    (run.home / "bundle.keys").chmod(0o666)
    code, out = run("apply", run.signed(1))
    assert code == 1
    assert "is writable by others" in out


def test_errors_are_not_signed_and_not_applied(run):
    """3, and nothing is written."""
    (run.source / "policy.d/30-site.policy").write_text("a * work\n")
    words = ["--key", run.base / "key.pem", "--name", "acme", "--version", "1"]
    assert run("sign", run.source, *words, "-o", run.base / "x")[0] == 3
    assert not (run.base / "x").exists()
    # Good alone, but here it would be an error: a record in front of it is gone.
    (run.source / "policy.d/30-site.policy").write_text(RULES)
    one = run.signed(1)
    (run.home / "policy.d").mkdir(mode=0o755)
    other = run.home / "policy.d/10-mine.policy"
    other.write_text("!include 30-site.policy\n")
    assert run("apply", one)[0] == 0
    (run.source / "policy.d/30-site.policy").unlink()
    code, out = run("apply", run.signed(2))
    assert code == 3
    assert "cannot be included" in out
    assert (run.home / "policy.d/30-site.policy").exists()


def test_a_state_that_cannot_be_read_lets_nothing_in(run):
    """Or an older bundle would be as good as a new one."""
    file = run.signed(1)
    run("apply", file)
    (run.home / ".bundles/acme.json").write_text("{")
    code, out = run("apply", file)
    assert code == 1
    assert "applied version" in out


def test_private_keys_are_private(run):
    """One that others may read is not used; none is overwritten."""
    (run.base / "key.pem").chmod(0o644)
    words = ["--key", run.base / "key.pem", "--name", "acme", "--version", "1"]
    code, out = run("sign", run.source, *words, "-o", run.base / "x")
    assert code == 1
    assert "chmod 600" in out
    assert run("key", run.base / "key.pem")[0] == 1


def test_an_edit_while_the_changes_are_shown_is_not_written_over(run, monkeypatch):
    """To compare all decisions may take a minute."""
    run("apply", run.signed(1))
    (run.source / "policy.d/30-site.policy").write_text("a * * * ask\n")
    second, mine = run.signed(2), run.home / "policy.d/30-site.policy"
    monkeypatch.setattr(verbs, "show_changes", lambda *_: mine.write_text("a * * * deny\n"))  # fmt: skip
    code, out = run("apply", second)
    assert code == 1, out
    assert mine.read_text() == "a * * * deny\n"
