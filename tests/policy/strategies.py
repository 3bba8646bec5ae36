"""Rule sets, worlds and calls for hypothesis, from a small vocabulary.

Small on purpose: rules must meet each other and the calls.
"""

from __future__ import annotations

from hypothesis import strategies as st

from policy.rules.engine import PolicyCall
from policy.rules.world import Domain, World

NAMES = ["work", "vault", "web", "tmpl"]
TAGS = ["red", "blue"]
UUID = {
    name: f"{n}0000000-0000-0000-0000-000000000001" for n, name in enumerate(NAMES, 1)
}
SOURCES = ["*", "@anyvm", "@adminvm", "work", "web", "dom0", f"uuid:{UUID['work']}",
           "@tag:red", "@tag:blue", "@type:persistent", "@dispvm:tmpl"]  # fmt: skip
TARGETS = ["*", "@anyvm", "@adminvm", "@default", "@dispvm", "@dispvm:tmpl", "@dispvm:web",
           "@dispvm:@tag:red", "@tag:red", "@tag:blue", "@type:persistent", "vault", "web",
           "work", f"uuid:{UUID['vault']}", "nobody"]  # fmt: skip
REDIRECTS = ["vault", "web", "@adminvm", "@dispvm", "@dispvm:tmpl", "nobody"]
CALLED = ["", "@default", "work", "vault", "web", "tmpl", "dom0", "@adminvm", "@dispvm",
          "@dispvm:tmpl", "@dispvm:web", "@dispvm:work", "nobody", f"uuid:{UUID['web']}", "@tag:red"]  # fmt: skip


@st.composite
def worlds(draw):
    """A few sandboxes and dom0."""
    domains = {
        "dom0": Domain(
            "dom0",
            "AdminVM",
            power_state="Running",
            uuid="00000000-0000-0000-0000-000000000000",
        )
    }
    for name in NAMES:
        domains[name] = Domain(
            name,
            draw(st.sampled_from(["persistent", "disposable"])),
            frozenset(draw(st.sets(st.sampled_from(TAGS)))),
            draw(st.sampled_from([None, "tmpl", "web", "nobody"])),
            name == "tmpl" or draw(st.booleans()),
            draw(st.sampled_from(["Running", "Halted"])),
            UUID[name],
            draw(st.integers(0, 5)) == 0,
        )
    return World(domains)


@st.composite
def lines(draw, *, plain=False, services=("a", "b", "*")):
    """One line; with ``plain`` nothing that Qubes does not have."""
    service = draw(st.sampled_from(services))
    argument = "*" if service == "*" else draw(st.sampled_from(["*", "+", "+x"]))
    target = draw(st.sampled_from(TARGETS))
    action = draw(st.sampled_from(["allow", "ask", "deny"]))
    words = [service, argument, draw(st.sampled_from(SOURCES)), target, action]
    need = target == "@default" and action == "allow"
    if action != "deny":
        if need or draw(st.integers(0, 3)) == 0:
            words.append("target=" + draw(st.sampled_from(REDIRECTS)))
        if draw(st.integers(0, 7)) == 0:
            words.append("autostart=no")
    if action == "ask" and draw(st.booleans()):
        words.append("default_target=" + draw(st.sampled_from(REDIRECTS)))
    if not plain:
        words += draw(_conditions(action))
    return " ".join(words)


@st.composite
def _conditions(draw, action):
    if draw(st.booleans()):
        return []
    some = ["scheme=https", "scheme=http,https", "host=*.example.org", "host=example.org",
            "mode=observe", "mode=enforce"]  # fmt: skip
    if action != "deny":
        some += ["mime=image/*", "max-size=10", "rate=3/min", "ttl=10m"]
    found = draw(
        st.lists(
            st.sampled_from(some), max_size=2, unique_by=lambda word: word.split("=")[0]
        )
    )
    return found


def policies(most=12, **kinds):
    """The text of a file."""
    return st.lists(lines(**kinds), max_size=most).map("\n".join)


calls = st.builds(
    PolicyCall,
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["+", "+x", "+y"]),
    st.sampled_from([*NAMES, "dom0", "nobody", f"uuid:{UUID['work']}"]),
    st.sampled_from(CALLED),
    mime=st.sampled_from([None, "", "image/png", "text/plain"]),
    scheme=st.sampled_from([None, "", "http", "https"]),
    host=st.sampled_from([None, "", "example.org", "a.example.org", "b.org"]),
    size=st.sampled_from([None, 9, 10, 11]),
)
plain_calls = st.builds(
    PolicyCall,
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["+", "+x", "+y"]),
    st.sampled_from([*NAMES, "dom0"]),
    st.sampled_from(CALLED),
)
