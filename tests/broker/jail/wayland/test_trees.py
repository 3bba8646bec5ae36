"""Random surface trees: no guest pixel outside its content, at any commit.

The same property is judged by pixels in tests/attack; here the model
compositor judges many more trees, and after every single commit.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.model import Surface
from tests.broker.jail.wayland.scene.test_frame import contained, guest_rects
from tests.broker.jail.wayland.test_taken_back import Watched
from tests.kit.wayland.client import ServerError
from tests.kit.wayland.talk import Talk

# Sizes that have a whole size at every scale, and odd ones.
SIDE = st.sampled_from([1, 2, 7, 16, 40, 120, 333, 900])
PLACE = st.integers(-400, 400)
NODE = st.integers(0, 5)

OPS = st.one_of(
    st.tuples(st.just("paint"), NODE, SIDE, SIDE),
    st.tuples(st.just("commit"), NODE),
    st.tuples(st.just("move"), NODE, PLACE, PLACE),
    st.tuples(st.just("stack"), NODE, NODE, st.booleans()),
    st.tuples(st.just("sync"), NODE, st.booleans()),
    st.tuples(st.just("scale"), NODE, st.integers(1, 3)),
    st.tuples(st.just("turn"), NODE, st.integers(0, 7)),
    st.tuples(st.just("dest"), NODE, SIDE, SIDE),
    st.tuples(st.just("undest"), NODE),
    st.tuples(
        st.just("source"),
        NODE,
        st.integers(0, 900),
        st.integers(0, 900),
        st.integers(1, 3000),
    ),
    st.tuples(st.just("geometry"), PLACE, PLACE, SIDE, SIDE),
    st.tuples(st.just("input"), NODE, PLACE, PLACE, SIDE, SIDE),
    st.tuples(st.just("null"), NODE),
    st.tuples(st.just("unsub"), NODE),
    st.tuples(st.just("resub"), NODE, NODE),
    st.tuples(st.just("kill"), NODE),
)


class Tree:
    """A window with five surfaces below it, nested two deep."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.top, self.xdg, _ = talk.show(200, 100, 0)
        self.nodes = [self.top] + [talk.surface() for _ in range(5)]
        self.subs: dict[int, int] = {}
        self.views: dict[int, int] = {}
        for n, parent in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 3)):
            self.subs[n] = talk.child(self.nodes[n], self.nodes[parent], 0, 0)

    def view(self, n: int) -> int:
        if n not in self.views:
            self.views[n] = self.talk.make(
                self.talk.viewporter, "get_viewport", "wp_viewport", None, self.nodes[n]
            )
        return self.views[n]

    def do(self, name: str, *args: int) -> None:
        getattr(self, f"op_{name}")(*args)

    def op_paint(self, n: int, w: int, h: int) -> None:
        self.talk.paint(self.nodes[n], w, h, 0)

    def op_commit(self, n: int) -> None:
        self.talk.send(self.nodes[n], "commit")

    def op_null(self, n: int) -> None:
        if n:
            self.talk.send(self.nodes[n], "attach", 0, 0, 0)

    def op_move(self, n: int, x: int, y: int) -> None:
        if n in self.subs:
            self.talk.send(self.subs[n], "set_position", x, y)

    def op_stack(self, n: int, other: int, above: bool) -> None:
        core = self.talk.core
        one, two = (core.by_client.get(self.nodes[i]) for i in (n, other))
        if (
            n not in self.subs
            or n == other
            or not isinstance(one, Surface)
            or not isinstance(two, Surface)
        ):
            return
        parent = one.sub.parent if one.sub else None
        if two is parent or (two.sub and parent and two.sub.parent is parent):
            self.talk.send(
                self.subs[n],
                "place_above" if above else "place_below",
                self.nodes[other],
            )

    def op_sync(self, n: int, sync: bool) -> None:
        if n in self.subs:
            self.talk.send(self.subs[n], "set_sync" if sync else "set_desync")

    def op_scale(self, n: int, scale: int) -> None:
        self.talk.send(self.nodes[n], "set_buffer_scale", scale)

    def op_turn(self, n: int, turn: int) -> None:
        self.talk.send(self.nodes[n], "set_buffer_transform", turn)

    def op_dest(self, n: int, w: int, h: int) -> None:
        self.talk.send(self.view(n), "set_destination", w, h)

    def op_undest(self, n: int) -> None:
        self.talk.send(self.view(n), "set_source", -256, -256, -256, -256)
        self.talk.send(self.view(n), "set_destination", -1, -1)

    def op_source(self, n: int, x: int, y: int, side: int) -> None:
        self.talk.send(self.view(n), "set_source", x, y, side, side)

    def op_geometry(self, x: int, y: int, w: int, h: int) -> None:
        self.talk.send(self.xdg, "set_window_geometry", x, y, w, h)

    def op_input(self, n: int, x: int, y: int, w: int, h: int) -> None:
        region = self.talk.make(self.talk.compositor, "create_region", "wl_region")
        self.talk.send(region, "add", x, y, w, h)
        self.talk.send(self.nodes[n], "set_input_region", region)
        self.talk.send(region, "destroy")

    def op_unsub(self, n: int) -> None:
        if n in self.subs:
            self.talk.send(self.subs.pop(n), "destroy")

    def op_resub(self, n: int, parent: int) -> None:
        if n and n not in self.subs and n != parent:
            self.subs[n] = self.talk.child(self.nodes[n], self.nodes[parent], 0, 0)

    def op_kill(self, n: int) -> None:
        if not n:
            return
        self.talk.send(self.nodes[n], "destroy")
        if n in self.subs:
            self.talk.send(self.subs.pop(n), "destroy")
        if n in self.views:
            self.talk.send(self.views.pop(n), "destroy")
        self.nodes[n] = self.talk.surface()


def _judged(ops, rules: WindowRules, base: int) -> None:
    with Watched(rules) as talk:
        tree = Tree(talk.start(shell=base))
        bad = []

        def judge(_surface) -> None:
            bad.extend(pair for pair in guest_rects(talk) if not contained(*pair))

        talk.model.on_root_commit = judge
        try:
            for op in ops:
                tree.do(*op)
                assert not bad + talk.strange, (op, bad, talk.strange)
        except ServerError:
            pass  # a protocol error is a fair answer; the model saw nothing wrong
    assert talk.machine.leaked() == []


# The guard table's use of it must not depend on drawn examples.
SMALL = [("geometry", 0, 0, 1, 1), ("commit", 0)]
FAR = [("paint", 1, 120, 120), ("move", 1, 180, 60), ("commit", 1), ("commit", 0)]
CARRIED = [
    *(("paint", 1, 1, 1), ("paint", 3, 900, 900), ("commit", 3), ("commit", 1)),
    *(("paint", 2, 40, 40), ("move", 2, 50, 50), ("commit", 2), ("commit", 0)),
    *(("unsub", 1), ("resub", 1, 2)),
]
DEEP = [*FAR, ("paint", 3, 333, 40), ("move", 3, -90, 7), ("commit", 3), *FAR]


@settings(max_examples=300)
@example(SMALL)
@example(DEEP)
@example(CARRIED)
@given(st.lists(OPS, max_size=40))
def test_no_tree_shows_anything_outside_its_content(ops):
    _judged(ops, WindowRules("work"), 5)


@settings(max_examples=300)
@example(SMALL)
@example(DEEP)
@example(CARRIED)
@given(st.lists(OPS, max_size=40))
def test_nor_does_one_whose_parts_become_popups(ops):
    _judged(ops, WindowRules("work", promote=True), 5)


@settings(max_examples=150)
@example(SMALL)
@example(DEEP)
@example(CARRIED)
@given(st.lists(OPS, max_size=40))
def test_nor_one_whose_popups_cannot_be_moved(ops):
    """xdg_wm_base 1, as GTK 3 binds it: each move is a new popup."""
    _judged(ops, WindowRules("work", promote=True), 1)
