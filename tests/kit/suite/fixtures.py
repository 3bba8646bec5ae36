"""Fixtures of many files: a user's environment, a Wayland client, a machine to start.

What they use is imported late: 'make unit' needs little of it.
"""

from __future__ import annotations

import pytest


@pytest.fixture
def env():
    """Directories of a user, in variables, for brokerctl."""
    from tests.kit.brokerctl import home

    with home() as env:
        yield env


@pytest.fixture
def talk():
    """A client's conversation with the Wayland filter, which leaves nothing behind."""
    from tests.kit.wayland.talk import Talk

    with Talk() as it:
        yield it.start()
    assert it.machine.leaked() == []


@pytest.fixture
def needs_vm():
    """Skip where no virtual machine can be started."""
    from tests.kit.vm.machines import require_vm

    require_vm()


@pytest.fixture
def forking_vm(monkeypatch, needs_vm):
    """Let machines be copies of a parent, which other tests do not need."""
    from tests.kit.vm.machines import allow_copies

    allow_copies(monkeypatch)


@pytest.fixture
def folders_vm(needs_vm):
    """Skip where no machine can be started that shares folders."""
    from broker.core.errors import SetupError
    from broker.host.folders.folder_server import find_virtiofsd

    try:
        find_virtiofsd()
    except SetupError as error:
        pytest.skip(str(error))
