"""``policy check`` warns of words in rules that mean nothing here."""

from __future__ import annotations

import json

import pytest

from broker.cli.policy.check import check
from broker.cli.verbs import report
from policy.errors import visible

RECORD = 'class = "disposable"\ndisplay = "allow"\n[launch]\nkind = "microvm"\nimage = "default"\n'


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
    """A person's settings with one record; returns the directory of rules."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    tmp_path.chmod(0o700)
    for name in ("sandboxes.d", "policy.d"):
        (tmp_path / "config/vitrail" / name).mkdir(parents=True)
    (tmp_path / "config/vitrail/sandboxes.d/demo.toml").write_text(RECORD)
    return tmp_path / "config/vitrail/policy.d"


def run(capsys, *words):
    """Return exit code and output of ``policy check``."""
    code = 0
    try:
        check.main(list(words), standalone_mode=False)
    except SystemExit as error:
        code = error.code
    except Exception as error:
        code = report(error)
    return code, "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("rule", "column", "name", "hint"),
    [
        (
            "vitrail.Dispaly * demo @adminvm deny",
            1,
            "unknown-service",
            "vitrail.Display",
        ),
        ("Display * demo @adminvm deny", 1, "unknown-service", "vitrail.Display"),
        ("vitrail.Display * dmo @adminvm deny", 19, "unknown-sandbox", "demo"),
        (
            "vitrail.Display * @type:disposble @adminvm deny",
            19,
            "unknown-type",
            "@type:disposable",
        ),
    ],
)
def test_a_misspelt_word_has_its_place_and_its_hint(
    folder, capsys, rule, column, name, hint
):
    file = folder / "30-mine.policy"
    file.write_text(f"{rule}\n")
    code, said = run(capsys)
    assert code == 0
    assert f"{visible(str(file))}:1:{column}: warning: " in said
    assert f"[{name}]" in said
    assert f"did you mean '{hint}'?" in said
    assert said.rstrip().endswith("rules: 1; warnings: 1")
    _, text = run(capsys, "--json")
    (one,) = json.loads(text)["warnings"]
    assert (one["check"], one["line"], one["column"]) == (name, 1, column)


def test_right_words_and_services_of_others_are_no_warning(folder, capsys):
    (folder / "30-mine.policy").write_text(
        "vitrail.Display * demo @adminvm ask\nmy.Service * demo @adminvm deny\n"
    )
    code, said = run(capsys)
    assert code == 0
    assert "warning" not in said


def test_files_for_another_machine_may_name_its_sandboxes(folder, capsys):
    file = folder / "30-mine.policy"
    file.write_text("vitrail.Display * theirs @adminvm ask\n")
    assert "warning" not in run(capsys, str(file))[1]
    file.write_text("vitrail.Dispaly * theirs @adminvm ask\n")
    assert "[unknown-service]" in run(capsys, str(file))[1]


def test_warnings_are_shown_beside_errors(folder, capsys):
    (folder / "30-mine.policy").write_text(
        "vitrail.Dispaly * demo @adminvm deny\nvitrail.Display * demo @adminvm aks\n"
    )
    code, said = run(capsys)
    assert code == 1
    assert "unknown-service" in said


@pytest.mark.parametrize(
    ("accel", "fork", "warned"),
    [("kvm-type", "copy", True), ("tcg", "copy", False), ("kvm-type", "shared", False)],
)
def test_standby_that_does_nothing_here_is_a_warning(
    folder, capsys, monkeypatch, accel, fork, warned
):
    monkeypatch.setenv("VITRAIL_ACCEL", accel)
    monkeypatch.setattr("broker.host.vmm.hosttools.KERNEL_DEVICE", folder / "none")
    record = folder.parent / "sandboxes.d/demo.toml"
    record.write_text(f'{RECORD}fork = "{fork}"\nstandby = 1\n')
    code, output = run(capsys)
    assert code == 0
    assert ("demo.toml:7:11: warning: standby has no effect" in output) is warned
    assert ('can be copied only with fork = "shared"' in output) is warned
