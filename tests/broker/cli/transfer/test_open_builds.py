"""The first file of a sandbox builds its image, as its first run does."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from broker.cli.run import image as building
from broker.cli.run.progress import Steps
from broker.cli.transfer import open_in
from broker.core.errors import RefusedError, SetupError, UpstreamError, sole
from broker.core.paths import find_paths
from broker.host.images.store import find_image, missing_image
from broker.ipc.control.api import OpenItem, OpenRequest
from tests.kit.wayland.compositor import short_directory

RECORD = 'class = "disposable"\n[launch]\nkind = "microvm"\nimage = "shown"\n'


@pytest.fixture(name="paths")
def _paths(tmp_path, monkeypatch):
    for name in ("CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    with short_directory() as run:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
        yield _with_record(find_paths())


def _with_record(paths):
    folder = paths.config[0] / "sandboxes.d"
    folder.mkdir(parents=True)
    (folder / "looks.toml").write_text(RECORD)
    return paths


class Broker:
    """A broker without images, which raises its errors as texts."""

    def __init__(self, paths, monkeypatch, image="shown"):
        self.built = []
        self.calls = self.connections = self.quiet = 0
        self.paths, self.image = paths, image

        async def ensure(_paths, record, _steps):
            self.quiet = 600
            self.built.append(record.name)

        async def runs(_paths):
            return False

        monkeypatch.setattr(building, "ensure_image", ensure)
        monkeypatch.setattr(open_in, "ensure_broker", runs)
        monkeypatch.setattr(open_in, "refuse_root", lambda: None)
        monkeypatch.setattr(open_in, "open_client", lambda _: self.client())

    @asynccontextmanager
    async def client(self):
        self.connections += 1
        self.quiet = 0
        yield self

    async def call(self, _method, _request, _show):
        self.calls += 1
        # As the server, which waits five minutes for a request.
        if self.quiet:
            raise UpstreamError("the broker closed the connection before it answered")
        if not self.built:
            with pytest.raises(SetupError) as caught:
                find_image(self.paths, self.image)
            raise SetupError(caught.value.message, hint=caught.value.hint)
        return OpenItem(sandbox="looks-1")


async def test_a_missing_image_is_built_and_the_file_opened(paths, monkeypatch):
    broker = Broker(paths, monkeypatch)
    request = OpenRequest(path="/x.pdf")
    done = await open_in.send_request(request, Steps(quiet=True))
    assert done.sandbox == "looks-1"
    assert broker.built == ["looks"]
    assert broker.calls == 2
    assert broker.connections == 2, "the broker ends a connection that is quiet so long"


async def test_an_image_that_no_record_has_is_an_error(paths, monkeypatch):
    broker = Broker(paths, monkeypatch, image="other")
    with pytest.raises(ExceptionGroup) as caught:
        await open_in.send_request(OpenRequest(path="/x.pdf"), Steps(quiet=True))
    assert str(sole(caught.value)).startswith("there is no guest image 'other'")
    assert broker.calls == 1


@pytest.mark.parametrize("error", [RefusedError("denied"), SetupError("a guest image")])
def test_another_error_names_no_image(error):
    assert missing_image(error) == ""
