"""``brokerctl set`` and ``get``: one value of a record by one command."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.cli.sandboxes.settings import SETTINGS, setting_of, words_of
from broker.core.errors import RefusedError
from policy.records.record_schema import TABLES
from tests.kit.brokerctl import called, home, paths_of

RECORD = """\
# my own words
class = "disposable"   # each run anew
display = "allow"
audio = "allow"

[label]
colour = "purple"

[launch]
memory = "1G"  # little
packages = [
  "foot",  # terminal
  "gimp",
]
command = ["foot"]
"""


@pytest.fixture
def env():
    with home() as made:
        folder = paths_of(made).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        (folder / "work.toml").write_text(RECORD)
        yield made


def text(env):
    return (paths_of(env).config[0] / "sandboxes.d" / "work.toml").read_text()


def change(env, *words, code=0):
    answer = called("set", "work", *words, env=env)
    assert answer.code == code, answer
    return answer


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("windows", "off"), 'display = "none"\n'),
        (("memory", "2G"), 'memory = "2G"  # little\n'),
        (("colour", "green"), 'colour = "green"\n'),
        (("fullscreen", "real"), '\n[window]\nfullscreen = "real"\n'),
        (("network", "rules"), 'network = "rules"\n'),
        (("class", "persistent"), 'class = "persistent"   # each run anew\n'),
        (("sound", "off"), '\n[audio]\nplayback = "none"\n'),
        (("microphone", "ask"), 'playback = "allow"\nmicrophone = "ask"\n'),
        (("command", "gimp", "--new-instance"), '["gimp", "--new-instance"]'),
        (("window.border", "8"), "border = 8\n"),
    ],
)
def test_a_value_is_changed_and_all_else_stays(env, words, key):
    change(env, *words)
    assert key in text(env)
    kept = [line for line in RECORD.splitlines() if line in text(env).splitlines()]
    assert len(RECORD.splitlines()) - len(kept) <= 1
    assert called("get", "work", words[0], env=env).out.strip() == " ".join(words[1:])


def test_sound_off_denies_a_microphone_that_asks(env):
    """The wish is silence: a refusal with "set playback" as its hint is the opposite."""
    change(env, "microphone", "ask")
    answer = change(env, "sound", "off")
    assert "audio.microphone: ask → deny" in answer.err
    assert called("get", "work", "microphone", env=env).out == "deny\n"


@pytest.mark.parametrize("value", ["ask", "allow"])
def test_microphone_brings_the_sound_that_it_needs(env, value):
    change(env, "sound", "off")
    answer = change(env, "microphone", value)
    assert "audio.playback: none → allow" in answer.err
    assert called("get", "work", "sound", env=env).out == "on\n"


def test_microphone_deny_leaves_sound_off(env):
    change(env, "microphone", "ask")
    change(env, "sound", "off")
    change(env, "microphone", "deny", code=0)
    assert called("get", "work", "sound", env=env).out == "off\n"


def test_members_are_added_and_removed_beside_their_comments(env):
    change(env, "packages", "+evince", "-gimp")
    assert '"foot",  # terminal' in text(env)
    assert "gimp" not in text(env)
    assert called("get", "work", "packages", env=env).out == "foot evince\n"
    change(env, "packages", "+evince")
    assert called("get", "work", "packages", env=env).out == "foot evince\n"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("sond", "on"), 1, "did you mean 'sound'?"),
        (("sound", "loud"), 1, "use one of on, off"),
        (("colour", "grean"), 3, "did you mean 'green'?"),
        (("sound",), 2, "'sound' takes on or off"),
        (("memory",), 2, "'memory' takes memory, such as 2G"),
        ((), 2, "SETTING is missing: one of windows, sound"),
        (("memory", "lots"), 3, "expected: 128 to 1048576 MiB"),
        (("memory", "1G", "2G"), 1, "takes one value"),
        (("launch.nothing", "1"), 3, "nothing was changed"),
        (("label.name", "\x1b[31m"), 3, "nothing was changed"),
    ],
)
def test_a_mistake_changes_nothing_and_says_what_to_do(env, words, code, told):
    answer = change(env, *words, code=code)
    assert told in answer.err
    assert "\x1b" not in answer.err
    assert text(env) == RECORD


def test_key_of_launch_is_accepted_by_its_short_name(env):
    assert setting_of("rootful").key == "launch.rootful"
    with pytest.raises(RefusedError, match="'kernle' is not a setting"):
        setting_of("kernle")


def test_the_same_value_is_no_change(env):
    assert "already" in change(env, "memory", "1G").err
    assert text(env) == RECORD


def test_what_it_changes_is_shown(env):
    told = change(env, "memory", "2G").err
    assert "record work: launch.memory: 1024 → 2048" in told
    # The rules do not decide about it.
    assert "decisions" not in told


def test_a_record_that_is_none_is_named(env):
    answer = called("set", "wrk", "sound", "on", env=env)
    assert answer.code == 1
    assert "did you mean 'work'?" in answer.err


def test_a_record_of_one_run_is_not_changed(env):
    """It goes with its run: a file of the user's by its name would stay."""
    paths = paths_of(env)
    (paths.runtime / "sandboxes.d").mkdir(parents=True)
    (paths.runtime / "sandboxes.d" / "box-1234.toml").write_text(RECORD)
    answer = called("set", "box-1234", "memory", "2G", env=env)
    assert answer.code == 1, answer
    assert "ends with its run" in answer.err
    assert not (paths.config[0] / "sandboxes.d" / "box-1234.toml").exists()


def test_get_says_where_a_value_is_set(env):
    lines = called("get", "work", env=env).out.splitlines()
    (memory,) = [line for line in lines if line.startswith("memory")]
    assert memory.split()[1] == "1G"
    assert memory.split()[2].endswith("work.toml:10:1")
    (network,) = [line for line in lines if line.startswith("network")]
    assert network.split()[1:] == ["none", "default"]


def test_each_setting_is_a_key_of_records():
    keys = {
        f"{table.name}.{field.key}" if table.name else field.key
        for table in TABLES
        for field in table.fields
    }
    assert {setting.key for setting in SETTINGS.values()} <= keys


def test_words_are_completed(env):
    assert words_of(SETTINGS["sound"]) == ["on", "off"]
    assert "green" in words_of(SETTINGS["colour"])


def test_autostart_writes_the_desktop_s_file_and_removes_it(env):
    """The Desktop Application Autostart Specification reads $XDG_CONFIG_HOME/autostart."""
    folder = Path(env["HOME"], ".config", "autostart")
    change(env, "autostart", "login")
    (file,) = folder.iterdir()
    assert file.name == "vitrail-sandbox.work.desktop"
    lines = dict(
        line.split("=", 1) for line in file.read_text().splitlines() if "=" in line
    )
    assert lines["Exec"].endswith("brokerctl menu start work")
    other = folder / "another.desktop"
    other.write_text("[Desktop Entry]\n")
    change(env, "autostart", "none")
    assert [*folder.iterdir()] == [other]


def test_a_removed_record_does_not_start_at_login(env):
    change(env, "autostart", "login")
    (paths_of(env).config[0] / "sandboxes.d" / "work.toml").unlink()
    assert called("menu", "refresh", env=env).code == 0
    assert not [*Path(env["HOME"], ".config", "autostart").iterdir()]


def test_a_refusal_by_a_record_names_the_command_that_changes_it(env):
    change(env, "sound", "off")
    words = ("policy", "explain", "vitrail.AudioOutput", "work", "@adminvm")
    refused = called(*words, env=env)
    assert "brokerctl set work sound on" in refused.out, refused
    change(env, "sound", "on")
    assert "to change the record" not in called(*words, env=env).out


def test_a_setting_of_another_kind_is_refused_before_anything_is_written(env):
    made = called("new", "mine", "--for", "media", "--in", "box", env=env)
    assert made.code == 0
    refused = called("set", "mine", "memory", "2G", env=env)
    assert refused.code == 1
    assert "cannot have the setting 'memory'" in refused.err
    assert "brokerctl get mine" in refused.err
    asked = called("get", "mine", "memory", env=env)
    assert (asked.code, asked.err) == (1, refused.err)
    assert "kinds with this setting: " in refused.err
    assert "microvm" in refused.err
    assert "without a limit of their own" in refused.err
