"""The Wayland filter's guards: what stops which attack, and who would notice.

A guard is a piece of source; ``without`` is the same program without it.  The
named test must fail then.  ``python -m tests.kit.wayland_guards [NAME…]``
turns each off in a copy of the project and says which ones nobody missed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core.errors import UpstreamError
from broker.launch.spawn import run_tool

ROOT = Path(__file__).resolve().parents[2]
_UNIT = "tests/broker/wayland/"


@dataclass(frozen=True)
class Guard:
    """``source`` occurs once in ``file``; ``test`` is a path with a -k word."""

    name: str
    file: str
    source: str
    without: str
    test: str
    word: str = ""


def _w(
    name: str, file: str, source: str, without: str, test: str, word: str = ""
) -> Guard:
    return Guard(
        name, f"broker/wayland/{file}", source, without, f"{_UNIT}{test}", word
    )


GUARDS = (
    _w("crop", "geometry.py", "        return Rect(x, y, w, h) if w > 0 and h > 0 else None", "        return self", "test_trees.py"),
    _w("crop follows children", "commit.py", "inner = rect.moved(-sub.x, -sub.y)", "inner = rect", "test_frames.py"),
    _w("hidden under the strip", "commit.py", "cx, cy = rect.x - 1, rect.y - 1", "cx, cy = 0, 0", "test_frames.py"),
    _w("sync stays ours", "commit.py", "    if surface.synced:\n", "    if False:\n", "test_frames.py", "synchronised_child"),
    _w("strips on top", "frame.py", "for _ in range(5 if core.labelled else 4):", "for _ in range(0):", "test_frames.py"),
    _w("popup touches parent", "placement.py", "clamp(x + offset[0], -size[0], parent[0]) - x", "offset[0]", "test_frames.py", "touches"),
    _w("popup adjustment forced", "placement.py", "_set_adjustment(made, ANY_ADJUSTMENT)", "_set_adjustment(made, 0)", "test_frames.py", "touches"),
    _w("promoted only by a record", "commit.py", "xdg if core.rules.promote and xdg.mapped else None", "xdg if xdg.mapped else None", "test_promote.py", "by_default"),
    _w("promoted is no larger than a popup", "promote.py", "min(extent[0], most[0]) + edges.wide,", "extent[0] + edges.wide,", "test_promote.py", "no_larger"),
    _w("promoted touches its window", "promote.py", "return placement.touching(whole, wish)", "return wish", "test_promote.py", "touches"),
    _w("promoted is cropped to what was granted", "promote.py", "return Rect(0, 0, *(self.granted or self.next))", "return Rect(0, 0, 16000, 16000)", "test_promote.py", "no_larger or cropped_to_it"),
    _w("promoted counts as popups", "promote.py", '        if not core.usage.room("popups"):', "        if False:", "test_promote.py", "limit"),
    _w("promoted goes before its window", "windows.py", "    if toplevel.xdg is not None:\n        promote.end_window(core, toplevel.xdg)\n", "", "test_promote.py", "goes_before"),
    _w("promoted one at a time", "promote.py", "if wish != mine.wish and not mine.waiting:", "if wish != mine.wish:", "test_promote.py", "not_answered"),
    _w("popup keeps its size", "window_state.py", "most_w, most_h = xdg.role.size", "pass", "test_frames.py", "larger_than"),
    _w("popup depth", "popups.py", "if _depth(parent) >= limits.WAYLAND_POPUP_DEPTH:", "if False:", "test_frames.py", "nest"),
    _w("cursor cap", "commit.py", "return limits.WAYLAND_CURSOR_PIXELS", "return 4096", "test_frames.py", "cursor"),
    _w("drag icon cap", "commit.py", "return limits.WAYLAND_DRAG_ICON_PIXELS", "return 4096", "test_selection.py", "icon"),
    _w("offsets do not add up", "commit.py", "    surface.hot = now\n", "    surface.hot = (0, 0)\n", "test_frames.py", "add_up"),
    _w("windows have no offset", "commit.py", "if surface.role not in {Role.CURSOR, Role.ICON} or not surface.announced:\n        return 0, 0", "if False:\n        return 0, 0", "test_frames.py", "attach_offset"),
    _w("fullscreen is faked", "windows.py", "if core.rules.fullscreen is Fullscreen.FAKE:", "if False:", "test_frames.py", "fullscreen"),
    _w("title prefix", "identity.py", 'return f"[{sandbox}] {text}".strip().encode()', "return text.encode()", "test_identity.py"),
    _w("hidden characters", "identity.py", "        if category in _HIDDEN:", "        if False:", "test_identity.py"),
    _w("application id", "identity.py", 'text = _APP_ID.sub("_", text).strip(".")', 'text = text.strip(".")', "test_identity.py"),
    _w("hidden globals", "registry.py", "        if row is None or row.local or not shown:", "        if row is not None and row.local:", "test_filter.py"),
    _w("frozen versions", "verdicts.py", "min(row.version, offered)", "offered", "test_filter.py", "baseline"),
    _w("bind what was offered", "registry.py", "if not 1 <= version <= entry.version:", "if False:", "test_filter.py", "binding"),
    _w("fail closed without viewporter", "filter.py", "        if missing:\n", "        if False:\n", "test_filter.py", "viewporter"),
    _w("object type", "ids.py", "(interface and obj.interface != interface)", "False", "test_filter.py", "wrong_interface"),
    _w("dead objects", "ids.py", "        obj.requests = dispatch.dead_requests(obj.interface)\n", "", "test_filter.py", "destroyed_object"),
    _w("new ids", "ids.py", "if cid in self.by_client or not 1 < cid <= self._next_cid:", "if False:", "test_filter.py"),
    _w("message size", "filter.py", "if size < 8 or size & 3 or size > wire.MAX_MESSAGE:", "if size < 8:", "test_filter.py", "not_wayland"),
    _w("string form", "wire.py", "    if raw[-1] or 0 in raw[:-1]:", "    if False:", "test_wire.py"),
    _w("role conflicts", "surfaces.py", "    if taken or surface.xdg is not None:", "    if False:", "test_frames.py", "breaking"),
    _w("subsurface loops", "surfaces.py", "    if parent.root() is surface:", "    if False:", "test_frames.py", "breaking"),
    _w("siblings only", "surfaces.py", "if sibling is sub.surface or not (brother or sibling is parent):", "if False:", "test_frames.py", "breaking"),
    _w("role before xdg_surface goes", "windows.py", "    if xdg.role is not None:\n        raise", "    if False:\n        raise", "test_frames.py", "breaking"),
    _w("configure before buffer", "commit.py", "    if has is not None and not xdg.acked:", "    if False:", "test_frames.py", "breaking"),
    _w("known configure serials", "windows.py", "    if serial not in xdg.serials:\n", "    if False:\n", "test_frames.py", "breaking"),
    _w("viewport inside buffer", "geometry.py", "raise ValueError(\"the viewport's source reaches outside the buffer\")", "pass", "test_frames.py", "breaking"),
    _w("buffer inside pool", "buffers.py", "    if offset + stride * height > pool.size:", "    if False:", "test_frames.py", "breaking"),
    _w("buffer sides", "buffers.py", "if not (0 < width <= side and 0 < height <= side and offset >= 0):", "if False:", "test_frames.py", "breaking"),
    _w("buffers held until shown", "buffers.py", "    if buffer.holds:\n", "    if False:\n", "test_frames.py", "destroyed_before"),
    _w("unsealed files are copied", "buffers.py", "pool.file.refresh(buffer.offset, buffer.stride * buffer.height)", "pass", "test_frames.py", "could_shrink"),
    _w("input serials", "serials.py", "return untrusted_serial in self._given", "return True", "test_seat.py"),
    _w("fresh input", "serials.py", "when >= 0.0 and now - when <= limits.WAYLAND_ACTIVATION_SECONDS", "True", "test_seat.py", "activat"),
    _w("tokens of this sandbox", "attention.py", "if sid and text in core.sandbox.tokens:", "if sid:", "test_seat.py", "activation"),
    _w("frame clicks are ours", "seat.py", "        pointer.focus = None\n        pointer.own = surface if", "        pointer.focus = told(surface)\n        pointer.own = surface if", "test_seat.py", "never_told"),
    _w("host clipboard swallowed", "hands.py", "        if mine is not None and not self.active:\n            core.end_own(mine)\n            return", "        pass", "test_selection.py", "hosts_clipboard"),
    _w("drag types are private", "drag.py", "core.up.data += _source_offer(sid, source.drag)", "core.up.data += b''.join(_source_offer(sid, m) for m in source.mimes)", "test_selection.py", "private"),
    _w("foreign drags untold", "drag.py", "                core.sandbox.hand.foreign_drag()\n            return", "                core.sandbox.hand.foreign_drag()\n            source = Source('wl_data_source', 3)", "test_selection.py", "elsewhere"),
    _w("only pipes are written into", "selection.py", "or not core.machine.admit_pipe(fd)", "", "test_selection.py", "only_a_pipe"),
    _w("accepted with a serial it got", "drag.py", "    if not core.serials.knows(serial):\n        return\n    good", "    good", "test_selection.py", "drag"),
    _w("waiting damage bounded", "model.py", "if name in _DAMAGES and len(mine) > limits.WAYLAND_DAMAGE:", "if False:", "test_frames.py", "for_ever"),
    _w("waiting moves bounded", "commit.py", "        if held is not None and len(held) > most:", "        if False:", "test_frames.py", "that_wait"),
    _w("surface regions bounded", "surfaces.py", "    elif len(region.ops) <= limits.WAYLAND_SURFACE_RECTS:", "    elif True:", "test_frames.py", "too_many_rectangles"),
    _w("nobody claims to be opaque", "surfaces.py", "    if core.rules.translucent:", "    if True:", "test_frames.py", "claim_to_be_opaque"),
    _w("no window larger than the screen", "window_state.py", "        most_w = max(wide - edges.wide, xdg.role.configured[0])\n        most_h = max(high - edges.high, xdg.role.configured[1])", "        pass", "test_frames.py", "larger_than"),
    _w("our own cursor on frames", "seat.py", "            cursor.enter(core, pointer, serial)", "            pass", "test_cursor.py"),
    _w("cursors only on the content", "cursor.py", "        and pointer.focus is not None", "", "test_cursor.py", "last_word"),
    _w("cursors with the latest enter", "cursor.py", "        and serial == pointer.entered", "", "test_cursor.py", "latest"),
    _w("hints stay inside", "constraints.py", "x = clamp(value[0] - surface.cx * 256, 0, crop.w * 256 - 1)", "x = value[0] - surface.cx * 256", "test_constraints.py", "hint"),
    _w("constraints bounded", "constraints.py", "    if len(held) >= limits.WAYLAND_SHELL_OPS:", "    if False:", "test_constraints.py", "bounded"),
    _w("popups do not drift away", "window_state.py", "            if xdg.frame is None or (touches(role, parent) and not gone):\n                continue", "            continue", "test_frames.py", "shrinks_away"),
    _w("types bounded", "selection.py", "len(source.mimes) >= limits.WAYLAND_MIMES", "False", "test_selection.py", "bounded"),
    _w("no message without its descriptor", "filter.py", '            raise wire.bad_message(obj.cid, "a message without its descriptor")', "            return self.machine.fd()", "test_filter.py", "without_its_descriptor"),
    _w("descriptors bounded", "filter.py", "if len(self._client_fds) > limits.WAYLAND_FDS_IN_FLIGHT:", "if False:", "test_filter.py", "in_flight"),
    _w("objects bounded", "ids.py", "        if len(self.by_client) >= limits.WAYLAND_OBJECTS:\n            raise self.too_much(\"too many objects\")\n        self.usage.take(\"objects\", 1)\n        if cid", "        self.usage.take(\"objects\", 1)\n        if cid", "test_filter.py", "objects_are_bounded"),
    _w("long answers pause reading", "filter.py", "            if len(up) > _ENOUGH or len(down) > _ENOUGH:", "            if False:", "test_filter.py", "long_answers or paused"),
    _w("kept bytes bounded", "surfaces.py", '        core.usage.take("kept_bytes", _OP_BYTES)\n', "", "test_filter.py", "regions_make_us"),
    _w("others do not fill a queue", "selection.py", "        if self.core.crowded:\n            return False\n", "", "test_selection.py", "filled_up"),
    _w("outputs blurred", "outputs.py", 'b"Vitrail", b"screen", turn', "_make, _model, turn", "test_filter.py", "outputs"),
    _w("mistakes end one connection", "filter.py", "        except Exception as error:  # noqa: BLE001 - one door: see _internal\n            self.fail(_internal(error))\n\n    def _may_read", "        except ZeroDivisionError as error:\n            self.fail(_internal(error))\n\n    def _may_read", "test_filter.py", "mistake_of_ours"),
    Guard("shared memory on tmpfs", "broker/session/wayland_machine.py", "    if not on_tmpfs(untrusted_fd):", "    if False:", "tests/attack/test_wayland_limits.py", "tmpfs"),
    Guard("shared memory sealed", "broker/session/wayland_machine.py", "        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)\n    except", "        pass\n    except", "tests/integration/test_wayland_machine.py", "sealed"),
    Guard("shrunk files noticed", "broker/session/wayland_machine.py", "                    raise ValueError(\"the file has shrunk\")", "                    return", "tests/integration/test_wayland_machine.py", "cannot_be_sealed"),
    Guard("lost descriptors noticed", "broker/session/wayland_shell.py", "                self._end(bad_message(1, str(error)))\n                return", "                continue", "tests/attack/test_wayland_limits.py", "descriptors_lost"),
    Guard("reading stops when full", "broker/session/wayland_shell.py", "        while _full(core.up) or _full(core.down):", "        while False:", "tests/attack/test_wayland_limits.py", "never_reads"),
    Guard("requests slowed", "broker/session/wayland_shell.py", "            if pause > 0:", "            if False:", "tests/attack/test_wayland_limits.py", "flood_of_requests"),
)  # fmt: skip


async def passes(guard: Guard, directory: Path) -> bool:
    """Whether the guard's test passes, as things are in the copy."""
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", guard.test]
    if guard.word:
        argv += ["-k", guard.word]
    try:
        await run_tool(
            argv,
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": str(directory),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            deadline=90,
        )
    except UpstreamError:
        return False
    return True


async def survives(guard: Guard, directory: Path) -> bool:
    """Whether the named test passes without the guard (it must not)."""
    path = directory / guard.file
    whole = path.read_text()
    path.write_text(whole.replace(guard.source, guard.without))
    try:
        return await passes(guard, directory)
    finally:
        path.write_text(whole)


async def missed(names: list[str], guards: tuple[Guard, ...] = GUARDS) -> list[str]:
    """Guards that can go without a test noticing.

    A test that fails, or is not found, with everything in place notices
    nothing: such a guard is missed by nobody either.
    """
    found = []
    sound: dict[tuple[str, str], bool] = {}
    with tempfile.TemporaryDirectory(prefix="vt-guards-", dir="/tmp") as name:
        directory = Path(name)
        for part in ("broker", "policy", "tests", "fuzz", "docs", "pyproject.toml"):
            source = ROOT / part
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, directory / part, ignore=ignore)
            else:
                shutil.copy(source, directory / part)
        for guard in guards:
            if names and guard.name not in names:
                continue
            which = guard.test, guard.word
            if which not in sound:
                sound[which] = await passes(guard, directory)
            alive = not sound[which] or await survives(guard, directory)
            print(
                f"{'MISSED BY NOBODY' if alive else 'noticed':17} {guard.name}",
                flush=True,
            )
            found += [guard.name] if alive else []
    return found


if __name__ == "__main__":
    sys.exit(1 if trio.run(missed, sys.argv[1:]) else 0)
