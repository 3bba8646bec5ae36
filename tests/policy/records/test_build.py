"""The corpus: good records are read as meant, bad ones refused in the right place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.core.streams.wayland_verdicts import DMABUF
from policy.records.model import (
    Audio,
    CidPeer,
    Clipboard,
    External,
    HybridPeer,
    Label,
    Limits,
    MachinePeer,
    MicroVM,
    ThrowawayVm,
    Transfer,
    UnixPeer,
    Window,
)
from policy.tools.record_files import parse_record

CORPUS = Path(__file__).parent.parent.parent / "corpus" / "policy"
GOOD = sorted((CORPUS / "good").glob("*.toml"))
BAD = sorted((CORPUS / "bad").glob("*.toml"))


def _parse(file: Path):
    return parse_record(file.stem, file, file.read_bytes())


def _good(name: str):
    record, problems = _parse(CORPUS / "good" / f"{name}.toml")
    assert problems == []
    assert record is not None
    return record


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_bad_records_have_exactly_these_problems(file):
    """``NAME.expect`` lists every problem: line:column: message | hint."""
    record, problems = _parse(file)
    assert record is None
    found = [
        f"{p.span.line}:{p.span.column}: {p.message}"
        + (f" | {p.hint}" if p.hint else "")
        for p in problems
    ]
    assert found == file.with_suffix(".expect").read_text().splitlines()


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_each_problem_of_the_corpus_lies_in_its_file(file):
    """Line and column exist, so that an editor can jump there."""
    lines = file.read_bytes().decode("utf-8", "replace").split("\n")
    for problem in _parse(file)[1]:
        assert 1 <= problem.span.line <= len(lines)
        line = lines[problem.span.line - 1]
        assert 1 <= problem.span.column <= len(line) + 1
        assert problem.source_line == line
        assert problem.span[:2] <= problem.span[2:]


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_good_records_have_no_problem(file):
    """Each is a record, and every key that it sets has a place in it."""
    record = _good(file.stem)
    for key, place in record.places.items():
        assert place.startswith(f"{file}:")
        assert key in record.values


def test_defaults_deny():
    """A record that says nothing gets no window, no sound, no network."""
    record = _good("minimal")
    assert record.viewer.display == "none"
    assert record.viewer.audio.playback == "none"
    assert record.viewer.audio.microphone == "deny"
    assert record.viewer.tags == frozenset()
    assert record.viewer.label == Label("minimal", "#555555")
    assert record.host.launch == MicroVM("default", 768, 1, "none", ("foot",), 90)
    assert record.where("class").endswith("minimal.toml:1:1")
    assert record.where("display").endswith("minimal.toml: default of 'display'")


def test_every_key_arrives():
    """Each value of a full record is where the types promise it."""
    record = _good("full")
    assert record.viewer.label == Label("Größe 数", "#00ff7f")
    assert record.viewer.sandbox_class == record.host.sandbox_class == "persistent"
    assert record.viewer.tags == {"work", "network"}
    assert record.viewer.display == "allow"
    assert record.viewer.limits == Limits(256, 1, 64)
    command = ("sh", "-c", 'echo "a" # not a comment')
    assert record.host.launch == MicroVM("debian-13", 1024, 4, "user", command, 300)
    assert record.places["launch.command"].endswith("full.toml:18:1")


def test_every_key_of_windows_sound_and_crossing_arrives():
    """Each value at its end of the range, in the unit that the type promises."""
    view = _good("everything").viewer
    idle, activation = "zwp_idle_inhibit_manager_v1", "xdg_activation_v1"
    assert view.default_disposable == "web"
    assert view.window == Window(
        border=64,
        name_strip=True,
        top=9,
        title_prefix="everything",
        fullscreen="framed",
        translucent=True,
        x11=True,
        subsurfaces="promote",
        allow=frozenset({idle}),
        deny=frozenset({idle, activation}),
        windows=128,
        popups=64,
        surfaces=1024,
        buffer_memory=32 << 30,
    )
    assert view.audio == Audio("allow", "ask", "end", 64, 384000, 32, 4 << 20, 0, 3600)
    assert view.clipboard == Clipboard(
        types=frozenset({"text/plain", "image/*"}),
        max_size=64 << 20,
        ttl=86400,
        primary="rules",
        drag="rules",
        clean=frozenset({"plain", "controls", "images"}),
    )
    assert view.transfer == Transfer(1 << 40, 1, 1000000, 10 << 10, 1, 0)


def test_defaults_of_windows_sound_and_crossing():
    """Nothing is let through that the record does not name."""
    view = _good("minimal").viewer
    window = view.window
    assert (window.border, window.top, window.name_strip) == (4, 4, None)
    assert window.title_prefix == "minimal"
    assert (window.fullscreen, window.translucent) == ("framed", False)
    assert (window.subsurfaces, window.allow) == ("crop", frozenset())
    assert (view.audio.playback, view.audio.microphone) == ("none", "deny")
    assert (view.clipboard.primary, view.clipboard.drag) == ("none", "none")
    assert view.clipboard.types is view.clipboard.max_size is view.clipboard.ttl is None


def test_a_word_stands_for_a_table():
    """``audio = "raw"`` is its playback, and has its place."""
    record = _good("audio-raw")
    assert record.viewer.audio.playback == "raw"
    assert record.viewer.audio.microphone == "deny"
    assert record.places["audio.playback"].endswith("audio-raw.toml:2:1")


@pytest.mark.parametrize(
    ("text", "top", "prefix"),
    [
        ("", 4, "x"),
        ("name_strip = true", 20, "x"),
        ("border = 30\nname_strip = true", 30, "x"),
        ("name_strip = true\ntop = 9", 9, "x"),
        ("top = 1", 1, "x"),
        ('[label]\nname = "Big X"', 4, "Big X"),
        ('title_prefix = "x!"\n[label]\nname = "Big X"', 4, "x!"),
    ],
)
def test_what_follows_from_other_keys(text, top, prefix):
    """The upper edge from the strip, the prefix from the label."""
    content = f'class = "disposable"\n[window]\n{text}\n'
    record, problems = parse_record("x", Path("x.toml"), content.encode())
    assert record is not None, problems
    assert record.viewer.window.top == top
    assert record.viewer.window.title_prefix == prefix


def test_ways_of_writing_are_one_meaning():
    """Dotted keys, inline tables and quoted keys are the same record."""
    record = _good("dotted")
    launch = record.host.launch
    assert isinstance(launch, MicroVM)
    assert launch.memory_mib == 2048
    assert record.viewer.label == Label("Dotted", "#cc79a7")
    assert record.viewer.limits.streams == 16
    assert record.places["launch.memory"].endswith("dotted.toml:4:30")


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("hybrid", HybridPeer(Path("/run/firecracker/box/vm.vsock"))),
        ("cid", CidPeer(4294967294)),
        ("unix", UnixPeer(Path("/run/containers/box/broker.sock"))),
    ],
)
def test_external_peers(name, peer):
    """A sandbox of another program has a peer, no home, and no program of our launcher."""
    record = _good(name)
    assert record.host.launch == External(peer)
    assert record.host.state is None
    assert not {"launch.command", "launch.cpus", "launch.network"} & set(record.values)


def test_a_machine_of_a_script_may_keep_a_home_and_share_an_image():
    text = (
        'class = "persistent"\nlaunch.kind = "external"\npeer.hybrid = "/run/v/vm.vsock"\n'
        'launch.shared_image = true\nlaunch.image_file = "/srv/root"\nlaunch.memory = "1G"\n'
    )
    plain, problems = parse_record("fox", Path("f.toml"), text.encode())
    assert plain is not None, problems
    launch = plain.host.launch
    assert (launch.memory_mib, launch.image_file) == (1024, Path("/srv/root"))
    assert plain.host.state is None
    kept = text + '[state]\ndisk_size = "1G"\n'
    record, problems = parse_record("fox", Path("f.toml"), kept.encode())
    assert record is not None, problems
    assert record.host.state.keep == {"home"}


def test_a_registered_machine_may_have_a_hybrid_socket():
    text = 'class = "disposable"\nlaunch.kind = "external"\n{}\n'
    both = 'peer = { machine = "lab", hybrid = "/run/lab/vm.vsock" }'
    record, problems = parse_record("lab", Path("l.toml"), text.format(both).encode())
    assert record is not None, problems
    assert record.host.launch == External(MachinePeer("lab", Path("/run/lab/vm.vsock")))
    for other in ('machine = "lab", cid = 5', 'hybrid = "/a", unix = "/b"'):
        refused = f"peer = {{ {other} }}"
        _, problems = parse_record("lab", Path("l.toml"), text.format(refused).encode())
        assert "already set in [peer]" in problems[0].message


@pytest.mark.parametrize(
    ("peer", "problem"),
    [
        ('hybrid_directory = "/run/vms"', ""),
        ('cids = "100-199"', ""),
        ('cids = "199-100"', "not allowed"),
        ('cids = "2-9"', "not allowed"),
        ('cids = "1٠٠-199"', "not allowed"),
        ('cids = "3-4294967295"', "not allowed"),
        ('cids = "100-101", cid = 7', "already set in [peer]"),
    ],
)
def test_several_machines_of_one_record(peer, problem):
    text = 'class = "{}"\nlaunch.kind = "external"\npeer = {{ {} }}\n'
    made = text.format("disposable", peer).encode()
    _, problems = parse_record("lab", Path("l.toml"), made)
    assert [problem in one.message for one in problems] == [True] * bool(problem)
    if not problem:
        made = text.format("persistent", peer).encode()
        _, problems = parse_record("lab", Path("l.toml"), made)
        assert ["a name for each" in one.message for one in problems] == [True]
        assert problems[0].where.endswith("l.toml:3:10")


def test_line_ends_of_other_systems():
    """CRLF reads as LF, with the same places."""
    record = _good("crlf")
    assert record.viewer.label.colour == "#56b4e9"
    assert record.places["label.colour"].endswith(":5:1")


def test_digest_is_of_the_meaning():
    """Comments, order and ways of writing do not change it; values do."""
    source = Path("demo.toml")

    def digest(text: str) -> str:
        record, problems = parse_record("demo", source, text.encode())
        assert record is not None, problems
        return record.digest

    one = digest('class = "disposable"\n[launch]\nmemory = "2G"\ncpus = 1\n')
    assert one == digest(
        '# x\nlaunch = { cpus = 0x1, memory = 2048 }\nclass="disposable"'
    )
    assert one != digest('class = "disposable"\n[launch]\nmemory = "2G"\ncpus = 2\n')
    tags = 'class = "disposable"\ntags = ["{}", "{}"]\n'
    assert digest(tags.format("a", "b")) == digest(tags.format("b", "a"))
    peers = 'class = "disposable"\nlaunch.kind = "external"\npeer.{} = "/a"\n'
    assert digest(peers.format("unix")) != digest(peers.format("hybrid"))


@pytest.mark.parametrize(
    ("peer", "problem"),
    [
        ('libvirt = "work"', None),
        ("cid = 42", "not allowed for a machine without a hook"),
        ('machine = "work"', "not allowed for a machine without a hook"),
    ],
)
def test_a_lease_is_required_where_a_hook_can_refuse(peer, problem):
    text = f'class = "persistent"\n[launch]\nkind = "external"\nrequired = true\n[peer]\n{peer}\n'
    _made, problems = parse_record("work", Path("work.toml"), text.encode())
    assert [problem in found.message for found in problems] == [True] * bool(problem)


def test_a_tree_needs_its_directory():
    text = 'class = "persistent"\n[launch]\nkind = "nspawn"\n'
    _made, problems = parse_record("work", Path("work.toml"), text.encode())
    (problem,) = problems
    assert "'rootfs' is missing" in problem.message


@pytest.mark.parametrize("kind", ["libvirt-qemu", "vmspawn"])
def test_a_domain_for_a_run_has_these_settings(kind):
    text = (
        f'class = "disposable"\n[launch]\nkind = "{kind}"\nmemory = "1G"\n'
        'cpus = 2\nimage = "tools"\ncommand = ["foot", "-F"]\nboot_deadline = 120\n'
    )
    made, problems = parse_record("work", Path("work.toml"), text.encode())
    assert problems == []
    launch = made.host.launch
    assert launch == ThrowawayVm("tools", 1024, 2, ("foot", "-F"), 120, kind)
    assert launch.domain(made.name) == "vitrail-work"
    assert made.host.command == ("foot", "-F")
    assert made.host.state is None


def test_image_of_container_has_the_right_key_as_hint():
    text = b'class = "disposable"\n[launch]\nkind = "podman"\nimage = "x"\n'
    _, problems = parse_record("work", Path("work.toml"), text)
    assert problems[0].hint == "name the container's image with 'container_image'"


@pytest.mark.parametrize("kind", ["libvirt-qemu", "vmspawn"])
@pytest.mark.parametrize(
    "line", ['network = "user"', 'root = "host"', "folders = 1", 'packages = ["gimp"]']
)
def test_a_domain_for_a_run_has_no_setting_that_it_would_not_keep(kind, line):
    text = f'class = "disposable"\n[launch]\nkind = "{kind}"\n{line}\n'
    made, problems = parse_record("work", Path("work.toml"), text.encode())
    assert made is None
    (problem,) = problems
    assert f'not allowed with kind = "{kind}"' in problem.message


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("libvirt", "libvirt-qemu"),
        ("libvirt-lxc", "only as root"),
        ("libkrun", 'hybrid = "PATH"'),
        ("firecracker", 'hybrid = "PATH"'),
        ("cloud-hypervisor", 'hybrid = "PATH"'),
        ("crosvm", "cid = N"),
    ],
)
def test_a_launcher_that_is_no_kind_here_has_its_way_in_the_hint(kind, hint):
    text = f'class = "disposable"\n[launch]\nkind = "{kind}"\n'
    made, (problem,) = parse_record("work", Path("work.toml"), text.encode())
    assert made is None
    assert hint in problem.hint
    (page,) = re.findall(r"docs/\S+\.md", problem.hint)
    assert (Path(__file__).parents[3] / page).exists()


@pytest.mark.parametrize("kind", ["persistent", "disposable"])
def test_any_booted_machine_may_share_its_image(kind):
    for line, shared in (("", False), ("shared_image = true", True)):
        text = f'class = "{kind}"\n[launch]\nhuge_pages = true\n{line}\n'
        made, problems = parse_record("work", Path("work.toml"), text.encode())
        assert made is not None, problems
        assert made.host.launch.shared_image is shared


def test_no_machine_has_an_arena_that_does_not_ask_for_it():
    for line, arena in (("", False), ("pixel_arena = true", True)):
        text = f'class = "persistent"\n[launch]\n{line}\n'
        made, problems = parse_record("work", Path("work.toml"), text.encode())
        assert made is not None, problems
        assert made.host.launch.pixel_arena is arena


@pytest.mark.parametrize("more", ["", 'app = "org.gnome.gedit"'])
@pytest.mark.parametrize("kind", ["bwrap", "podman", "flatpak"])
def test_windows_show_what_the_gpu_drew_only_if_the_record_says_so(kind, more):
    if (kind == "flatpak") is not bool(more):
        return
    for line, given in (
        ("", False),
        ('gpu = "buffers"', True),
        ('gpu = "none"', False),
    ):
        text = f'class = "persistent"\n[launch]\nkind = "{kind}"\n{more}\n{line}\n'
        made, problems = parse_record("work", Path("work.toml"), text.encode())
        assert made is not None, problems
        assert made.host.launch.gpu == ("buffers" if given else "none")
        assert (DMABUF in made.viewer.window.allow) is given


@pytest.mark.parametrize("kind", ["microvm", "nspawn", "external"])
def test_no_other_kind_has_the_gpus_buffers(kind):
    text = f'class = "persistent"\n[launch]\nkind = "{kind}"\ngpu = "buffers"\n'
    made, problems = parse_record("work", Path("work.toml"), text.encode())
    assert made is None
    told = (
        "does not support this GPU mode"
        if kind == "microvm"
        else "not allowed with kind"
    )
    assert any(told in problem.message for problem in problems)


@pytest.mark.parametrize("kind", ["bwrap", "flatpak", "nspawn"])
def test_a_process_draws_for_micro_vms_only(kind):
    text = f'class = "persistent"\n[launch]\nkind = "{kind}"\ngpu = "render"\n'
    made, _ = parse_record("work", Path("work.toml"), text.encode())
    assert made is None


def test_a_machine_with_a_gpu_has_an_arena_and_boots():
    launch = '[launch]\nkind = "microvm"\ngpu = "render"\n'
    text = f'class = "disposable"\n{launch}'
    made, problems = parse_record("work", Path("work.toml"), text.encode())
    assert made is not None, problems
    assert made.host.launch.gpu == "render"
    assert made.host.launch.pixel_arena
    assert DMABUF not in made.viewer.window.allow
    shared, problems = parse_record(
        "work", Path("work.toml"), f'{text}fork = "shared"\n'.encode()
    )
    assert shared is None
    assert any("such a machine always boots" in problem.message for problem in problems)


def _forked(lines, kind="disposable", rest=""):
    text = f'class = "{kind}"\n[launch]\nfork = "shared"\n{lines}\n{rest}'
    return parse_record("work", Path("work.toml"), text.encode())


def test_a_disposable_sandbox_may_share_its_templates_memory():
    made, problems = _forked('network = "user"\nstandby = 1\npixel_arena = true')
    assert made is not None, problems
    assert isinstance(made.host.launch, MicroVM)
    assert made.host.launch.fork == "shared"


@pytest.mark.parametrize(
    ("kind", "lines", "rest", "why"),
    [
        ("persistent", "", "", "only disposable machines share memory"),
        ("template", "", "", "only disposable machines share memory"),
        ("disposable", "huge_pages = true", "", "huge_pages"),
        ("disposable", "shared_image = true", "", "shared_image"),
        ("disposable", "folders = 1", "", "virtiofsd"),
        ("disposable", "", '[folders]\nread_only = ["/srv"]', "virtiofsd"),
    ],
)
def test_what_cannot_share_memory_does_not_ask_for_it(kind, lines, rest, why):
    made, (problem,) = _forked(lines, kind, rest)
    assert made is None
    assert why in problem.message
    assert 'fork = "copy"' in problem.hint
    assert (problem.span.line, problem.span.column) == (3, 1)


def test_another_kind_of_sandbox_shares_no_memory():
    made, (problem,) = _forked('kind = "bwrap"')
    assert made is None
    assert "not allowed with" in problem.message
