"""``labels`` for bars, and what Tab offers, asked as the shells ask."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.kit.brokerctl import brokerctl, home, paths_of
from tests.kit.world import record


@pytest.fixture
def env() -> Iterator[dict[str, str]]:
    with home() as env:
        folder = paths_of(env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        for name, colour in {"web": "red", "my-bank": "yellow"}.items():
            (folder / f"{name}.toml").write_text(record(colour=colour))
        images = paths_of(env).images
        images.mkdir(parents=True)
        (images / "my-image").symlink_to("elsewhere")
        yield env


async def test_labels(env, tmp_path):
    (labels,) = (await brokerctl("labels", "--json", env=env)).objects
    bank, web = labels
    assert (bank["record"], web["record"]) == ("my-bank", "web")
    assert re.fullmatch("#[0-9a-f]{6}", web["colour"])
    for app_id, meant in {
        "vitrail.web.firefox": True,
        "vitrail.web-1234.firefox": True,
        "vitrail.web": True,
        "vitrail.webs.firefox": False,
        "vitrail.web-12345.x": False,
        "firefox": False,
        "xvitrail.web.y": False,
    }.items():
        assert bool(re.search(web["app_id"], app_id)) is meant, app_id
    css = (await brokerctl("labels", "--css", env=env)).out
    assert f"@define-color vitrail_my_bank {bank['colour']};" in css
    waybar = json.loads((await brokerctl("labels", "--waybar", env=env)).out)
    (pattern,) = [p for p in waybar["sway/window"]["rewrite"] if "web" in p]
    assert re.fullmatch(pattern, "[web-1234] a title")[2] == "a title"
    sway = (await brokerctl("labels", "--sway", env=env)).out
    assert sway.count("for_window") == 2
    if shutil.which("sway"):
        config = tmp_path / "config"
        config.write_text(sway)
        done = subprocess.run(
            ["sway", "--validate", "--config", config],
            env={**env, "WLR_BACKENDS": "headless"},
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["st"], {"stop", "status"}),
        (["run", "w"], {"web"}),
        (["stop", "MY"], {"my-bank"}),
        (["audit", "--service", "disp"], {"Display"}),
        (["audit", "--kind", "stream.o"], {"stream.opened"}),
        (["run", "--det"], {"--detach"}),
        (["share", "w"], {"web"}),
        (["unshare", "my"], {"my-bank"}),
        (["device", "at"], {"attach"}),
        (["guest", "in"], {"install"}),
        (["image", "remove", "my"], {"my-image"}),
        (["run", "--image", "my"], {"my-image"}),
        (["new", "x", "--from", "de"], {"demo"}),
        (["new", "x", "--host-files", "f"], {"fonts"}),
        (["kill-window", "w"], {"web"}),
        (["audio", "mute", "w"], {"web"}),
        (["open", "--in", "w"], {"web"}),
        (["cp", "a", "w"], {"web:"}),
        (["policy", "show", "w"], {"web"}),
        (["policy", "explain", "vitrail.Dis"], {"vitrail.Display"}),
        (["policy", "explain", "Display", "w"], {"web"}),
        (["policy", "effective", "w"], {"web"}),
        (["lease", "acquire", "w"], {"web"}),
        (["help", "aud"], {"audio", "audit"}),
    ],
)
async def test_what_tab_offers(env, words, offered):
    asked = {
        **env,
        "_BROKERCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["brokerctl", *words]),
        "COMP_CWORD": str(len(words)),
    }
    answer = await brokerctl(env=asked)
    found = {line.partition(",")[2] for line in answer.lines}
    assert offered <= found, answer


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_the_shell_understands_its_part(env, shell, tmp_path):
    answer = await brokerctl("completion", shell, env=env)
    assert "_BROKERCTL_COMPLETE" in answer.out
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(answer.out)
        subprocess.run([shell, "-n", script], check=True, timeout=30)
