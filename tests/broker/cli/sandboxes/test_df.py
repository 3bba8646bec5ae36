"""``brokerctl df``, ``prune`` and ``sandbox remove``: files beside a home."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from broker.cli.images import installed
from broker.cli.images.installed import manifest_bytes
from broker.cli.sandboxes import df, prune
from broker.cli.sandboxes.presets import PRESETS, RULES_HEAD, rules_file, rules_text
from broker.cli.sandboxes.state import command as sandbox
from broker.core.errors import RefusedError
from broker.core.names import SandboxName
from broker.core.paths import find_paths
from broker.host.homes.store import DISK, TREE, HomeStore
from broker.host.images import store as images
from broker.host.images.store import ImageSpec, Manifest

RECORD = 'class = "persistent"\n[label]\ncolour = "red"\n[launch]\nimage = "{}"\n'


@pytest.fixture(name="paths")
def _paths(tmp_path, monkeypatch):
    """Records mail and web, a home of mail, images of both, logs and parent machines."""
    for name in ("config", "state", "data", "cache"):
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp/vt-none")
    paths = find_paths()
    records = paths.config[0] / "sandboxes.d"
    records.mkdir(parents=True)
    for name, image in (("mail", "letters"), ("web", "shared"), ("view", "shared")):
        (records / f"{name}.toml").write_text(RECORD.format(image))
    homes = HomeStore(paths.homes)
    with homes.new(DISK) as prepared:
        (prepared / DISK).write_bytes(b"letters")
        homes.publish(prepared, SandboxName("mail"))
    for name in ("letters", "shared", "old"):
        make_image(paths, name)
    for name in ("mail", "web", "box-1a2b3c", "gone"):
        paths.logs(name).mkdir(parents=True)
        (paths.logs(name) / "console.log").write_text("text\n")
    for name in ("mail", "gone"):
        (paths.parents / name).mkdir(parents=True)
        (paths.parents / name / "memory").write_bytes(b"pages")
    return paths


def make_image(paths, name):
    directory = paths.images / f".{name}.1"
    directory.mkdir(parents=True)
    spec = ImageSpec(name=name)
    manifest = Manifest(images.FORMAT, spec, "6.1", {}, 0.0, "", "")
    (directory / "manifest.json").write_bytes(manifest_bytes(manifest))
    for file in ("kernel", "initrd", "root.ext4", "root"):
        (directory / file).write_bytes(b"x")
    installed.point(paths.images / name, directory.name)


def run(command, *words, code=0, given=None):
    done = CliRunner().invoke(command, words, input=given)
    assert done.exit_code == code, (done.output, done.exception)
    return done


def unused():
    found = json.loads(run(df.command, "--json").stdout)
    return {(one["kind"], one["name"]) for one in found if one["unused"]}


LOGS = {("logs", "box-1a2b3c"), ("logs", "gone")}
PARENT, IMAGE = ("parent machine", "gone"), ("image", "old")


def test_df_shows_everything_and_what_nothing_uses(paths):
    assert unused() == {*LOGS, PARENT, IMAGE}
    shown = run(df.command)
    for word in ("home", "mail", "letters", "shared", "no record uses it"):
        assert word in shown.output
    (paths.config[0] / "sandboxes.d" / "mail.toml").write_text("class = nonsense\n")
    assert unused() == {*LOGS, PARENT}, "a record with a mistake may start any image"


def test_prune_removes_what_belongs_to_no_sandbox_and_images_by_choice(paths):
    removed = json.loads(run(prune.command, "--yes", "--json").stdout)
    assert {(one["kind"], one["name"]) for one in removed} == {*LOGS, PARENT}
    assert unused() == {IMAGE}
    assert paths.logs("mail").is_dir()
    run(prune.command, "--yes", "--images")
    assert unused() == set()
    assert [image.name for image in installed.list_images(paths)] == [
        "letters",
        "shared",
    ]
    assert "there is nothing to remove" in run(prune.command, "--yes").output


def test_prune_asks_and_never_removes_a_home(paths):
    (paths.config[0] / "sandboxes.d" / "mail.toml").unlink()
    done = CliRunner().invoke(prune.command, [])
    assert isinstance(done.exception, RefusedError)
    assert unused() >= {("home", "mail"), ("image", "letters"), ("logs", "mail")}
    run(prune.command, "--yes", "--images")
    assert unused() == {("home", "mail")}


def test_remove_takes_logs_and_the_booted_copy_with_it(paths):
    done = run(sandbox, "remove", "mail", "--yes", "--json")
    assert not paths.logs("mail").exists()
    assert not (paths.parents / "mail").exists()
    assert str(paths.logs("mail")) in json.loads(done.stdout)["removed"]
    assert "letters" in {image.name for image in installed.list_images(paths)}


def rules_of(paths, name, *more):
    """Write the rules that ``brokerctl new NAME --for mail`` writes; return their file."""
    file = rules_file(paths, name)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(rules_text([*PRESETS["mail"].lines(name), *more], RULES_HEAD))
    return file


def test_remove_takes_the_rules_of_its_purpose_with_it(paths):
    file, other = rules_of(paths, "mail"), rules_of(paths, "web")
    asked = CliRunner().invoke(sandbox, ["remove", "mail"]).exception
    assert f"its rules {file}" in str(asked)
    assert file.exists()
    run(sandbox, "remove", "mail", "--yes")
    assert not file.exists()
    run(sandbox, "remove", "view", "--yes")
    assert other.exists()
    removed = json.loads(run(sandbox, "remove", "web", "--yes", "--json").stdout)
    assert str(other) in removed["removed"]
    assert not other.exists()


def test_remove_leaves_rules_that_were_edited_and_names_their_file(paths):
    file = rules_of(paths, "mail", "vitrail.Call +backup mail vault allow")
    done = run(sandbox, "remove", "mail", "--yes")
    assert file.exists()
    assert f"kept {file}, which was edited" in done.output
    file = rules_of(paths, "web")
    file.write_text("vitrail.Print + web @adminvm allow\n")
    assert f"kept {file}" in run(sandbox, "remove", "web", "--yes").output
    assert file.exists()
    file = rules_of(paths, "view")
    file.write_text("")
    assert f"kept {file}" in run(sandbox, "remove", "view", "--yes").output


def test_remove_that_keeps_the_record_keeps_its_rules(paths):
    file = rules_of(paths, "mail")
    done = run(sandbox, "remove", "mail", "--keep-record", "--yes")
    assert file.exists()
    assert str(file) not in done.output


def test_remove_takes_an_image_only_by_choice_and_only_where_no_other_starts_it(paths):
    run(sandbox, "remove", "mail", "--yes", "--image", "--keep-logs")
    assert paths.logs("mail").is_dir()
    assert {i.name for i in installed.list_images(paths)} == {"shared", "old"}
    run(sandbox, "remove", "web", "--yes", "--image")
    assert {i.name for i in installed.list_images(paths)} == {"shared", "old"}
    assert not paths.logs("web").exists()


def test_home_that_is_a_directory_is_named_as_without_a_limit(paths):
    """A box or container may fill the file system that the homes are on."""
    assert "no size limit" not in run(df.command).output
    homes = HomeStore(paths.homes)
    with homes.new(TREE) as prepared:
        (prepared / TREE).mkdir()
        homes.publish(prepared, SandboxName("box-mail"))
    output = run(df.command).output
    assert "no size limit applies to the homes of box-mail:" in output
    rows = json.loads(run(df.command, "--json").stdout)
    unbounded = [row["name"] for row in rows if row["unbounded"]]
    assert unbounded == ["box-mail"]
