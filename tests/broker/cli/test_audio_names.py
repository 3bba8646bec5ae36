"""``brokerctl audio`` of a sandbox without sound: kept for a known one, an error else."""

from __future__ import annotations

import pytest

from broker.core.paths import find_paths
from broker.viewer.sound.levels import load_level
from tests.kit.brokerctl import called, home


@pytest.fixture(name="env")
def _env():
    with home() as env:
        folder = find_paths(env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        (folder / "work.toml").write_text('class = "disposable"\n')
        (folder / "broken.toml").write_text("clas = 1\n")
        yield env


@pytest.mark.parametrize(
    "words", [("mute", "wrok"), ("unmute", "wrok"), ("volume", "wrok", "50")]
)
def test_a_misspelt_name_is_an_error_and_nothing_is_stored(env, words):
    answer = called("audio", *words, env=env)
    assert answer.code == 1
    assert "'wrok'" in answer.err
    assert not (find_paths(env).state / "audio").exists()


@pytest.mark.parametrize(
    ("name", "record"), [("work", "work"), ("work-1234", "work"), ("broken", "broken")]
)
def test_setting_kept_for_record(env, name, record):
    answer = called("audio", "volume", name, "50", env=env)
    assert (
        answer.err
        == f"'{name}' has no sound connection; the next sandbox of '{record}' "
        "starts with: 50 %\n"
    )
    # The file that the next sandbox reads.
    assert load_level(find_paths(env).state / "audio", record).volume == 32768
    answer = called("audio", "volume", name, "40", env=env)
    assert answer.err.endswith(": 40 %\n")


def test_mute_without_connection_needs_no_sound_server(env):
    answer = called("audio", "mute", "work-1234", env=env)
    assert answer.code == 0, answer
    assert answer.err.endswith("the next sandbox of 'work' starts with: 100 %, muted\n")
    assert load_level(find_paths(env).state / "audio", "work").muted
