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
    _w("no request to an id that was given back", "commit.py", "        if base.dead:\n", "        if False:\n", "test_filter.py", "presentation_that_is_gone"),
    _w("a row by its format", "buffers.py", "    deep = PIXEL_BYTES.get(form)\n", "    deep = PIXEL_BYTES.get(form) and 1\n", "test_filter.py", "as_long_as_its_format"),
    _w("titles have a pace", "window_state.py", '    if core.sandbox.may("titles", most, core.now):\n', "    if True:\n", "test_filter.py", "flood_of_titles"),
    _w("least size within the screen", "window_state.py", "    low_w = min(low_w, max(1, most_w - edges.wide))\n", "", "test_frames.py", "least_size"),
    _w("no popup without its parent", "window_state.py", "        if xdg.mapped and not (parent.mapped and touches(role, parent)):", "        if xdg.mapped and not touches(role, parent):", "test_frames.py", "without_a_shown_parent"),
    _w("no popup of a window not shown", "commit.py", "    if coming and (parent is None or not parent.mapped):", "    if False:", "test_frames.py", "without_a_shown_parent"),
    _w("shown pixels are counted", "commit.py", '        core.usage.take("shown_pixels", more)\n', "        pass\n", "test_sandbox.py", "shown_pixels"),
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
    _w("promoted goes before its window", "windows.py", "        promote.end_window(core, toplevel.xdg)\n", "", "test_promote.py", "goes_before"),
    _w("promoted one at a time", "promote.py", "if wish != mine.wish and not mine.waiting:", "if wish != mine.wish:", "test_promote.py", "not_answered"),
    _w("popup keeps its size", "window_state.py", "most_w, most_h = xdg.role.size", "pass", "test_frames.py", "larger_than"),
    _w("popup depth", "popups.py", "if _depth(parent) >= limits.WAYLAND_POPUP_DEPTH:", "if False:", "test_frames.py", "nest"),
    _w("cursor cap", "model.py", "return limits.WAYLAND_CURSOR_PIXELS", "return 4096", "test_frames.py", "cursor"),
    _w("drag icon cap", "model.py", "return limits.WAYLAND_DRAG_ICON_PIXELS", "return 4096", "test_selection.py", "icon"),
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
    _w("message size", "filter.py", "if size not in _SIZES:", "if size < 8:", "test_filter.py", "not_wayland"),
    _w("string form", "wire.py", "    if raw[-1] or 0 in text:", "    if False:", "test_wire.py"),
    _w("role conflicts", "surfaces.py", "    if taken or surface.xdg is not None:", "    if False:", "test_frames.py", "breaking"),
    _w("subsurface loops", "surfaces.py", "    if parent.root() is surface:", "    if False:", "test_frames.py", "breaking"),
    _w("siblings only", "surfaces.py", "if sibling is sub.surface or not (brother or sibling is parent):", "if False:", "test_frames.py", "breaking"),
    _w("role before xdg_surface goes", "windows.py", "    if xdg.role is not None:\n        raise", "    if False:\n        raise", "test_frames.py", "breaking"),
    _w("configure before buffer", "commit.py", "    if has is not None and not xdg.acked:", "    if False:", "test_frames.py", "breaking"),
    _w("known configure serials", "windows.py", "    if serial not in xdg.serials:\n", "    if False:\n", "test_frames.py", "breaking"),
    _w("viewport inside buffer", "geometry.py", "raise ValueError(\"the viewport's source reaches outside the buffer\")", "pass", "test_frames.py", "breaking"),
    _w("buffer no smaller than its scale", "geometry.py", 'raise SmallBufferError("the buffer is smaller than its scale")', "pass", "test_frames.py", "breaking"),
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
    _w("foreign drags untold", "drag.py", "            foreign.enter(core, device, host, serial, (x, y))\n            return", "            foreign.enter(core, device, host, serial, (x, y))\n            source = Source('wl_data_source', 3)", "test_selection.py", "elsewhere"),
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
    _w("popups do not drift away", "window_state.py", "(parent.mapped and touches(role, parent)):", "parent.mapped:", "test_frames.py", "shrinks_away"),
    _w("types bounded", "selection.py", "len(source.mimes) >= limits.WAYLAND_MIMES", "False", "test_selection.py", "bounded"),
    _w("no message without its descriptor", "filter.py", '            raise wire.bad_message(obj.cid, "a message without its descriptor")', "            return self.machine.fd()", "test_filter.py", "without_its_descriptor"),
    _w("descriptors bounded", "filter.py", "if len(self._client_fds) > limits.WAYLAND_FDS_IN_FLIGHT:", "if False:", "test_filter.py", "in_flight"),
    _w("objects bounded", "ids.py", "        if len(self.by_client) >= limits.WAYLAND_OBJECTS:\n            raise self.too_much(\"too many objects\")\n        self.usage.take(\"objects\", 1)\n        if cid", "        self.usage.take(\"objects\", 1)\n        if cid", "test_filter.py", "objects_are_bounded"),
    _w("long answers pause reading", "filter.py", "            if len(up) > _ENOUGH or len(down) > _ENOUGH or self.pixels >= most:", "            if self.pixels >= most:", "test_filter.py", "long_answers or paused"),
    _w("kept bytes bounded", "surfaces.py", '        core.usage.take("kept_bytes", _OP_BYTES)\n', "", "test_filter.py", "regions_make_us"),
    _w("others do not fill a queue", "selection.py", "        if self.core.crowded:\n            return False\n", "", "test_selection.py", "filled_up"),
    _w("outputs blurred", "outputs.py", 'b"Vitrail", b"screen", turn', "_make, _model, turn", "test_filter.py", "outputs"),
    _w("mistakes end one connection", "filter.py", "        except Exception as error:  # noqa: BLE001 - one door: see internal\n            self.fail(internal(error))\n\n    def _may_read", "        except ZeroDivisionError as error:\n            self.fail(internal(error))\n\n    def _may_read", "test_filter.py", "mistake_of_ours"),
    Guard("large pictures pause reading", "broker/wayland/filter.py", " or self.pixels >= most:", ":", "tests/attack/test_wayland_limits.py", "large_pictures"),
    _w("callbacks bounded", "surfaces.py", "    if len(frames) >= limits.WAYLAND_CALLBACKS:", "    if False:", "test_bounds.py", "callbacks"),
    _w("feedbacks bounded", "surfaces.py", "    if len(held) >= limits.WAYLAND_CALLBACKS:", "    if False:", "test_bounds.py", "feedbacks"),
    _w("region operations bounded", "surfaces.py", "    if len(region.ops) >= limits.WAYLAND_REGION_OPS:", "    if False:", "test_bounds.py", "rectangles"),
    _w("moves of children bounded", "surfaces.py", "    if len(pending.children) >= limits.WAYLAND_CHILD_OPS:", "    if False:", "test_bounds.py", "moves"),
    _w("window requests bounded", "windows.py", "    if len(pending.shell) >= limits.WAYLAND_SHELL_OPS:", "    if False:", "test_bounds.py", "acknowledgements"),
    _w("subsurfaces bounded", "surfaces.py", "    if _count(parent.root()) + _count(surface) > limits.WAYLAND_SUBSURFACES:", "    if False:", "test_bounds.py", "children"),
    _w("subsurface depth", "surfaces.py", "    if parent.depth + _height(surface) >= limits.WAYLAND_SUBSURFACE_DEPTH:", "    if False:", "test_bounds.py", "generations"),
    _w("damage bounded", "surfaces.py", "    if len(held) >= limits.WAYLAND_DAMAGE:", "    if False:", "test_bounds.py", "damage"),
    _w("pool size", "buffers.py", "    if not 0 < size <= limits.WAYLAND_POOL_BYTES:", "    if False:", "test_bounds.py", "no_larger"),
    _w("pool growth", "buffers.py", "if not pool.size <= size <= limits.WAYLAND_POOL_BYTES or pool.file is None:", "if pool.file is None:", "test_bounds.py", "grows_no_further"),
    _w("faked fullscreen may be smaller", "frame.py", " and self.maximized in {None, outer}:", ":", "test_frames.py", "answered_with_a_picture"),
    _w("configures forgotten", "windows.py", "        xdg.role.forget(gone)\n        _remember(", "        _remember(", "test_frames.py", "nobody_acknowledges"),
    _w("late windows are cropped", "late.py", "        commit.relayout(core, xdg.surface)\n", "        pass\n", "test_late.py", "is_cropped"),
    _w("tiles are not exceeded", "window_state.py", "            cap_w = min(cap_w or w, w - edges.wide)\n            cap_h = min(cap_h or h, h - edges.high)\n", "            pass\n", "test_late.py", "is_not_exceeded"),
    _w("nor without an answer", "late.py", "    if not (large or role.bound):\n", "    if not large:\n", "test_late.py", "nor_by_who"),
    _w("lateness is not put off", "window_state.py", "    if not xdg.serials:\n        role.due", "    if True:\n        role.due", "test_late.py", "put_it_off"),
    _w("a frame after real fullscreen", "late.py", "            xdg.frame.change_edges(core.edges)", "            pass", "test_late.py", "real_fullscreen"),
    _w("a popup's wish is none yet", "popups.py", "    made, _ = _materialise(", "    made, popup.size = _materialise(", "test_frames.py", "what_it_acknowledges"),
    _w("a popup's size by its acknowledgement", "popups.py", "    popup.next = (max(1, w - mine.wide), max(1, h - mine.high))\n", "    popup.size = popup.next = (max(1, w - mine.wide), max(1, h - mine.high))\n", "test_frames.py", "what_it_acknowledges"),
    _w("pools are mapped anew", "buffers.py", "    core.up.data += emit.pool_destroy(pool.sid)\n    core.replace_sid(pool)\n    message = emit.create_pool(core.shm, pool.sid, pool.size)\n    core.up.add(message, [file.export()])\n", '    core.up.data += emit.request("wl_shm_pool", "resize")(pool.sid, pool.size)\n', "test_bounds.py", "no_resize"),
    _w("kept mappings counted", "buffers.py", "    if former.buffers:\n", "    if False:\n", "test_bounds.py", "mappings_that_buffers_keep"),
    _w("mapping anew has a pace", "buffers.py", "    core.spend_pixels(limits.WAYLAND_MAPPING_PIXELS)\n", "", "test_bounds.py", "flood_of_pools"),
    _w("ceilings of the sandbox", "sandbox.py", "        if total > self._sandbox.ceilings[kind]:", "        if False:", "test_sandbox.py", "ceiling"),
    _w("shared memory counted", "buffers.py", '    core.usage.take("shm_bytes", size)\n', "", "test_bounds.py", "over_all_pools"),
    _w("a record lowers and never raises", "sandbox.py", "self.ceilings[kind] = min(most, own.get(kind, most))", "self.ceilings[kind] = own.get(kind, most)", "test_sandbox.py", "lowers"),
    _w("popups leave a part of the screen", "placement.py", "    share = limits.WAYLAND_POPUP_SHARE", "    share = 100", "test_frames.py", "touches"),
    _w("buffer scale", "surfaces.py", "    if not 1 <= scale <= limits.WAYLAND_SCALE:", "    if False:", "test_frames.py", "breaking"),
    _w("buffer transform", "surfaces.py", "    if not 0 <= transform <= 7:", "    if False:", "test_frames.py", "breaking"),
    _w("buffer before role", "windows.py", "    if surface.content.buffer is not None or isinstance(surface.pending.buffer, Buffer):", "    if False:", "test_frames.py", "breaking"),
    _w("rates of bells and tokens", "sandbox.py", "        if len(times) >= per_minute:", "        if False:", "test_sandbox.py", "a_minute"),
    _w("tokens bounded", "sandbox.py", "        if len(self.tokens) > limits.WAYLAND_SERIALS:", "        if False:", "test_sandbox.py", "oldest"),
    _w("grabs with a serial it got", "popups.py", "    if core.serials.knows(serial):", "    if True:", "test_frames.py", "grab"),
    _w("copies with a serial it got", "selection.py", "    if not core.serials.knows(serial) or not _may_select(core):", "    if not _may_select(core):", "test_selection.py", "without_a_delivered"),
    _w("moves with a serial it got", "windows.py", "    if core.serials.knows(serial):\n        core.up.data += _move(", "    if True:\n        core.up.data += _move(", "test_seat.py", "moving_a_window"),
    _w("drags with a serial it got", "drag.py", "    if not core.serials.knows(serial) or not core.data_manager:", "    if not core.data_manager:", "test_selection.py", "drag_needs"),
    _w("a loop of parents", "windows.py", "        if step is toplevel:", "        if False:", "test_frames.py", "breaking"),
    _w("one role for each window", "windows.py", "    if xdg.constructed:", "    if False:", "test_frames.py", "breaking"),
    _w("a window before its shell goes", "windows.py", "    if base.windows:\n", "    if False:\n", "test_frames.py", "breaking"),
    _w("minimum below maximum", "window_state.py", "    if (high_w and low_w > high_w) or (high_h and low_h > high_h):", "    if False:", "test_frames.py", "breaking"),
    Guard("shared memory on tmpfs", "broker/session/wayland_machine.py", "    if not on_tmpfs(untrusted_fd):", "    if False:", "tests/attack/test_wayland_limits.py", "tmpfs"),
    Guard("shared memory sealed", "broker/session/wayland_machine.py", "        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)\n    except", "        pass\n    except", "tests/integration/test_wayland_machine.py", "sealed"),
    Guard("shrunk files noticed", "broker/session/wayland_machine.py", "                    raise ValueError(\"the file has shrunk\")", "                    return", "tests/integration/test_wayland_machine.py", "cannot_be_sealed"),
    Guard("lost descriptors noticed", "broker/session/wayland_shell.py", "            self._end(bad_message(1, str(error)))\n            return Turn.MINE", "            return Turn.NOBODY", "tests/attack/test_wayland_limits.py", "descriptors_lost"),
    Guard("reading stops when full", "broker/session/wayland_shell.py", "        return _full(up) or _full(down)", "        return False", "tests/attack/test_wayland_limits.py", "never_reads"),
    Guard("requests slowed", "broker/session/wayland_shell.py", "        if pause > 0:", "        if False:", "tests/attack/test_wayland_floods.py", "eight and not streamed"),
    _w("a commit costs by its surfaces", "commit.py", "    core.pixels += limits.WAYLAND_SURFACE_PIXELS\n", "", "test_bounds.py", "looked_at"),
    _w("no focus of a window that is gone", "seat.py", "    core.blur_keyboard(keyboard)\n    if before", "    if before", "test_seat.py", "has_the_keyboard_no_more"),
    _w("no focus of a keyboard that is gone", "seat.py", "    core.blur_keyboard(keyboard)\n    core.destroy(keyboard)", "    core.destroy(keyboard)", "test_seat.py", "has_the_focus_no_more"),
    _w("one budget for a sandbox", "budget.py", "min(whole.pace.take(now, amount), part.take(now, amount * members))", "0.0", "test_budget.py", "no_faster_together"),
    _w("a part for each connection", "budget.py", "min(whole.pace.take(now, amount), part.take(now, amount * members))", "whole.pace.take(now, amount)", "test_budget.py", "held_up_by_eight"),
    _w("nothing saved up at first", "budget.py", "            part.take(now, saved + whole.at_once * members)\n", "", "test_budget.py", "ever_anew"),
    Guard("the first read waits, too", "broker/session/wayland_shell.py", "        await trio.sleep(self._budget.first(trio.current_time()))\n", "", "tests/attack/test_wayland_floods.py", "first_word"),
    Guard("streams have the same budget", "broker/session/waypipe_shell.py", "        await self._away(self._rest)\n", "", "tests/attack/test_wayland_floods.py", "eight and streamed"),
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
