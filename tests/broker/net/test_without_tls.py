"""Processes without TLS: what is imported there, and what an attempt to use it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from broker.helpers.process.popen import our_program

LEFT_OUT = """
import sys
from broker.net.without_tls import leave_out_tls
leave_out_tls()
import trio, ssl
print("_ssl" in sys.modules, ssl.__spec__.name)
try:
    ssl.create_default_context()
except AttributeError as error:
    print(error)
"""
LOADED = """
import ssl
from broker.net.without_tls import leave_out_tls
leave_out_tls()
print(ssl.create_default_context().verify_mode.name)
"""


def _said(code: str) -> list[str]:
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def test_trio_loads_no_tls_and_its_use_is_an_error():
    assert _said(LEFT_OUT) == [
        "False ssl",
        "ssl.create_default_context is used in a process that was started without TLS",
    ]


def test_where_it_is_loaded_already_it_works():
    assert _said(LOADED) == ["CERT_REQUIRED"]


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (["broker.programs.authority"], False),
        (["broker.programs.fork_server", "workers"], False),
        (["broker.programs.shipper_jailed"], True),
        (["broker.programs.ingest"], True),
    ],
)
def test_only_programs_that_ship_events_load_it(arguments, loaded):
    """Started without arguments each has imported all it needs when it fails."""
    argv = our_program(*arguments)
    argv[1:1] = ["-X", "importtime"]
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60, input=""
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "trio" in imported, done.stderr[-2000:]
    assert ("_ssl" in imported) == loaded
