"""A token that never enters a sandbox: the page's proxy, with nginx, TLS and git."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.ssh import running
from tests.kit.world import world

PAGE = Path(__file__).parents[2] / "docs/calls.md"
NGINX = "/usr/sbin/nginx"
pytestmark = [
    requires("waypipe"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("git", "curl", "openssl")))
        or not Path(NGINX).exists(),
        reason="nginx, git, curl and openssl are needed",
    ),
]
HOST, TOKEN = "git.example.org", "a-token-of-the-test"
# The server that wants the token.
SERVER = """\
pid nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path tmp;
    proxy_temp_path tmp;
    fastcgi_temp_path tmp;
    uwsgi_temp_path tmp;
    scgi_temp_path tmp;
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name {host};
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        root {folder}/www;
        if ($http_authorization != "Bearer {token}") {{ return 401; }}
    }}
}}
"""


def recipe(language):
    """The block of the recipe in the page."""
    section = PAGE.read_text().partition("### A token that never enters")[2]
    return section.partition(f"```{language}\n")[2].partition("\n```")[0]


def free_ports(count):
    """Ports of the loopback that nothing has now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def nginx(folder, text, port):
    (folder / "nginx.conf").write_text(text)
    words = (NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr")
    async with running([*words, "-g", "daemon off; master_process off;"]):
        await eventually(lambda: listens(port))
        yield


def served(folder, port):
    """Make the server's certificate and its repository; returns its settings."""
    (folder / "www").mkdir(parents=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subprocess.run(
        (
            *("openssl", "req", "-x509", *key, "-subj", f"/CN={HOST}", "-days", "9"),
            *("-addext", f"subjectAltName=DNS:{HOST}"),
            *("-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"),
        ),
        check=True,
        capture_output=True,
        timeout=60,
    )
    git = (
        "git init -q tree; cd tree; git -c user.name=Me -c user.email=me@example.test "
        "commit -q --allow-empty -m one; git clone -q --bare . ../www/a.git; "
        "cd ../www/a.git; git update-server-info"
    )
    subprocess.run(("sh", "-ec", git), cwd=folder, check=True, timeout=60)
    return SERVER.format(port=port, host=HOST, folder=folder, token=TOKEN)


async def test_a_token_is_added_outside_of_the_sandbox():
    there, outside, inside = free_ports(3)
    async with world({}, start=False, image=False) as w:
        rule = f"vitrail.Tcp +{outside} work proxy allow\n"
        w.write_rules(rule)
        await w.start()
        server, place = w.base / "server", w.base / "proxy-files"
        text = served(server, there)
        place.mkdir(mode=0o700)
        (place / "token.conf").write_text(
            f'proxy_set_header Authorization "Bearer {TOKEN}";\n'
        )
        proxy = (
            recipe("nginx")
            .replace("127.0.0.1:8081", f"127.0.0.1:{outside}")
            .replace(f"https://{HOST}/", f"https://127.0.0.1:{there}/")
            # The test's host has no address by its name.
            .replace("proxy_ssl_server_name on;", f"proxy_ssl_name {HOST};")
            .replace("/etc/ssl/certs/ca-certificates.crt", f"{server}/cert.pem")
        )
        async with (
            plain(w, "work", "proxy") as guests,
            nginx(server, text, there),
            nginx(place, proxy, outside),
        ):
            work = guests["work"]
            tool = work.folder / "runtime/bin/vitrail-connect"
            connect = [str(tool), "-t", "proxy", str(outside), str(inside)]
            async with running(connect, env={**os.environ, **work.env}):
                await eventually(lambda: listens(inside))
                await _used(work, there, inside)


async def _used(work, there, inside):
    set_up = recipe("sh").replace("8081", str(inside))
    code, said = await work.script(
        f"export HOME={work.home}; {set_up}; git clone -q https://{HOST}/a.git copy && "
        "git -C copy log --format=%s"
    )
    assert (code, said) == (0, "one\n")
    # Without the proxy there is no way in, and it serves no other host.
    get = "curl -s -o /dev/null -w '%{http_code} '"
    code, said = await work.script(
        f"{get} -k https://127.0.0.1:{there}/a.git/HEAD; "
        f"{get} http://127.0.0.1:{inside}/other.example.org/a.git/HEAD; "
        f"{get} http://127.0.0.1:{inside}/{HOST}/a.git/HEAD"
    )
    assert said == "401 403 200 ", code
    code, said = await work.script(
        f"curl -s -i http://127.0.0.1:{inside}/{HOST}/a.git/HEAD; "
        f"grep -r {TOKEN} {work.home}"
    )
    assert (code, TOKEN in said) == (1, False), said
