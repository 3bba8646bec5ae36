from __future__ import annotations

import json
from functools import partial

import pytest
from click.testing import CliRunner

from broker.cli.images import installed, verbs
from broker.cli.images.verbs import age_text, command, read_packages
from broker.cli.run.image import record_of_host
from broker.core.errors import RefusedError, SetupError
from broker.core.paths import find_paths
from broker.host.images.store import FORMAT, ImageSpec, Manifest
from policy.records.loader import load_records


def test_package_list_has_words_and_comments(tmp_path):
    path = tmp_path / "packages"
    path.write_text("foot  waypipe # the terminal\n\n# nothing\nfirefox-esr\n")
    assert read_packages(path) == ("foot", "waypipe", "firefox-esr")


def test_package_list_that_is_no_text(tmp_path):
    path = tmp_path / "packages"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match="package list"):
        read_packages(path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5, "5.0 s"),
        (7200, "2.0 h"),
        (172800, "48.0 h"),
        (172801, "2 days"),
        (864000, "10 days"),
    ],
)
def test_age(seconds, text):
    assert age_text(seconds) == text


def test_rollback_where_no_image_was_ever_built(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SetupError, match="there is no guest image 'default'"):
        CliRunner().invoke(command, ["rollback"], catch_exceptions=False)


@pytest.mark.parametrize("words", [["build", "host"], ["import", "x.tar", "host"]])
def test_the_name_of_this_machines_programs_is_taken(words, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        RefusedError, match="reserved for the image of this machine's programs"
    ):
        CliRunner().invoke(command, words, catch_exceptions=False)


def test_a_rebuild_leaves_an_imported_image_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = tmp_path / "vitrail" / "images" / ".mine.1"
    directory.mkdir(parents=True)
    for name in ("kernel", "initrd", "root"):
        (directory / name).write_bytes(b"x")
    manifest = Manifest(FORMAT, ImageSpec("mine"), "6.1", {}, 1.0, "d", "a", "r", "oci")
    (directory / "manifest.json").write_bytes(installed.manifest_bytes(manifest))
    (directory.parent / "mine").symlink_to(directory.name)
    result = CliRunner().invoke(command, ["rebuild", "--json"], catch_exceptions=False)
    (shown,) = json.loads(result.stdout)
    assert (shown["name"], shown["suite"], shown["built"]) == ("mine", "oci", 1.0)
    assert not installed.is_made_of(manifest, ImageSpec("mine")), "a build replaces it"


def test_an_import_of_something_that_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["import", str(tmp_path / "missing\x1b"), "mine"]
    with pytest.raises(SetupError, match=r"missing\\x1b: no such file"):
        CliRunner().invoke(command, words, catch_exceptions=False)


def test_the_record_of_this_machines_programs_is_written_once(tmp_path):
    paths = find_paths({"XDG_CONFIG_HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/tmp"})
    folder = paths.config[0] / "sandboxes.d"
    assert record_of_host(paths, ()) == "host"
    found = load_records([folder])
    assert not found.problems
    launch = found.records["host"].host.launch
    assert (launch.root, launch.image) == ("host", "host")
    (folder / "host.toml").unlink()
    assert record_of_host(paths, ["host"]) == "host"
    assert not (folder / "host.toml").exists(), "the person has one elsewhere"


@pytest.mark.parametrize("more", [[], ["-p", "foot"]])
def test_the_name_of_a_record_is_not_the_name_of_its_image(more, tmp_path, monkeypatch):
    """'image build surf' would make an image that nothing uses, for minutes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    records = tmp_path / "config/vitrail/sandboxes.d"
    records.mkdir(parents=True)
    (records / "surf.toml").write_text(
        'class = "disposable"\n[launch]\nkind = "microvm"\nimage = "browser"\n'
        'packages = ["firefox-esr"]\n'
    )
    built = []

    async def build(paths, spec, progress, *, force, container):
        built.append(spec.name)
        raise SetupError("enough")

    monkeypatch.setattr(verbs, "build_image", build)
    run = partial(CliRunner().invoke, command, catch_exceptions=False)
    if more:
        # A user who names packages means a new image.
        with pytest.raises(SetupError, match="enough"):
            run(["build", "surf", *more])
        assert built == ["surf"]
        return
    with pytest.raises(RefusedError, match="is 'browser'") as refused:
        run(["build", "surf"])
    assert "image build browser" in refused.value.hint
    assert built == []
    with pytest.raises(SetupError, match="enough"):
        run(["build", "browser"])
    assert built == ["browser"]
