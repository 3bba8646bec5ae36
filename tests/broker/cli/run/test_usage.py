"""Wrong calls of ``run`` and ``exec``: the message names the mistake."""

from __future__ import annotations

import click
import pytest

from broker.cli.run import exec as exec_verb
from broker.cli.run import verb


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (verb.command, ["--memry", "1G", "demo"], "No such option: --memry"),
        (exec_verb.command, ["--detatch", "demo", "ls"], "No such option: --detatch"),
        (verb.command, [], "Missing argument: SANDBOX"),
        (verb.command, ["--bwrap"], "COMMAND is missing: brokerctl run --bwrap -- "),
    ],
)
def test_a_wrong_call_names_the_mistake(command, words, message):
    with pytest.raises(click.UsageError) as caught:
        command.main(words, standalone_mode=False)
    # click's releases quote names in different ways
    plain = caught.value.format_message().replace("'", "").replace(": ", " ")
    assert message.replace(": ", " ") in plain
