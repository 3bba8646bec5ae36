"""Programs of GTK and Qt use the portal where rules may allow all that they ask of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from broker.authority.permit import USER
from broker.cli.launchers.portal_programs import portal_variables
from broker.core.services import PORTAL_CALLS, PORTAL_VARIABLES
from broker.viewer.dialogs import uses_portal
from tests.kit.world import record

DIALOGS = "vitrail.FileDialog + work @adminvm {}\n"
PRINTS = "vitrail.Print + work @adminvm {}\n"


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """Write rules for the record 'work'."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    base = tmp_path / "XDG_CONFIG_HOME/vitrail"
    for folder in ("sandboxes.d", "policy.d"):
        (base / folder).mkdir(parents=True)
    (base / "sandboxes.d/work.toml").write_text(record())
    return (base / "policy.d/30-mine.policy").write_text


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        (
            f"{DIALOGS.format('allow')}{PRINTS.format('ask')}".replace(
                " + work", " * work"
            ),
            True,
        ),
        (DIALOGS.replace(" + ", " * ").format("allow"), False),
        (
            "vitrail.FileDialog +open work @adminvm allow\n" + PRINTS.format("ask"),
            False,
        ),
        ("", False),
    ],
)
def test_a_box_has_the_variables_where_every_call_may_be_allowed(rules, text, uses):
    rules(text)
    assert portal_variables("work") == (PORTAL_VARIABLES if uses else {})


@pytest.mark.parametrize("denied", [None, *range(len(PORTAL_CALLS))])
async def test_a_machine_asks_about_every_call(denied):
    class Decider:
        async def preview(self, requests):
            assert [(r.service, r.argument) for r in requests] == [*PORTAL_CALLS]
            verdicts = ["ask"] * len(requests)
            if denied is not None:
                verdicts[denied] = "deny"
            return [SimpleNamespace(verdict=one) for one in verdicts]

    assert await uses_portal(Decider(), USER) is (denied is None)
