"""The parts of Vitrail that few need, each a package of its own: which modules it has.

A part's code runs in the process that its path names, as all code does; the boundary is
for people and packages.  The core imports a module of a part only inside of ``absent.needed``
(``tests/docs/test_parts.py``), which says the package's name if the part is absent.
``debian/divide.py`` divides the tree by this table, and ``docs/features.md`` counts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Part:
    """One part.

    ``modules``: dotted names, each a module or a package with all that is below it;
    the first is absent exactly if the part is.  ``files``: other files and directories,
    as paths in the source.  ``programs``: those of ``pyproject.toml``.
    """

    about: str
    modules: tuple[str, ...]
    files: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


# A table and no entry points: by these any package of the environment could add code to
# a broker's process, and each start of brokerctl would read the metadata of all of them.
PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "fleet": Part(
            "databases, OTLP, ingest, Grafana",
            (
                "broker.fleet",
                "broker.programs.ingest",
                "broker.helpers.shipper.database",
                "broker.helpers.shipper.http_post",
                "broker.helpers.shipper.ingest",
                "broker.helpers.shipper.otlp",
                "broker.helpers.shipper.postgres",
                "broker.cli.audit.proof.shipped",
                "broker.cli.audit.query.archive",
                "broker.cli.fleet.fleet",
                "broker.cli.fleet.fleet_counts",
                "broker.cli.fleet.fleet_database",
                "broker.cli.fleet.fleet_verbs",
            ),
            (
                "broker/data/grafana",
                "broker/data/sql",
                "broker/data/systemd/system/vitrail-ingest.service",
            ),
            ("vitrail-ingest",),
        ),
        "x11": Part(
            "windows of X11 programs",
            ("shims.x11", "broker.cli.x11"),
        ),
        "manager": Part(
            "a window of sandboxes, permissions, questions, devices and events",
            ("broker.cli.manager",),
            (
                "broker/data/desktop/io.vitrail.Manager.desktop",
                "broker/data/locale/manager",
            ),
            ("vitrail-manager",),
        ),
        "workbench": Part(
            "tests, diff, replay, graph, suggestions and imports of policy, reports",
            (
                "policy.tools.cases",
                "policy.tools.flows",
                "policy.tools.fmt",
                "policy.tools.graph",
                "policy.tools.importers",
                "policy.tools.qubes.compat",
                "policy.tools.qubes.differences",
                "policy.tools.replay",
                "policy.tools.suggest",
                "broker.cli.allow.suggest",
                "broker.cli.audit.html",
                "broker.cli.audit.query.digest",
                "broker.cli.audit.report",
                "broker.cli.audit.stats",
                "broker.cli.policy.graph",
                "broker.cli.policy.import_from",
                "broker.cli.policy.replay",
                "broker.cli.policy.tools",
            ),
            ("broker/data/report",),
        ),
        "launchers": Part(
            "libvirt, systemd-machined, nspawn and vmspawn, toolbox, distrobox, "
            "a relay without sandboxes",
            (
                "broker.host.launchers.libvirt",
                "broker.host.launchers.machined.guests",
                "broker.host.launchers.machined.reply",
                "broker.host.launchers.nspawn",
                "broker.host.launchers.piped_stderr",
                "broker.host.launchers.vmspawn",
                "broker.host.vmm.image_boot",
                "broker.cli.launchers.adoption",
                "broker.cli.launchers.box_entries",
                "broker.cli.launchers.libvirt",
                "broker.cli.launchers.libvirt_domain",
                "broker.cli.launchers.nspawn",
                "broker.cli.launchers.scripts.script_domain",
                "broker.cli.launchers.shared_box",
                "broker.cli.launchers.shared_box_setup",
                "broker.cli.launchers.vmspawn",
                "broker.cli.proxy",
            ),
        ),
    }
)
"""By the name of the extra of ``pip install vitrail[NAME]``; see ``package``."""


def package(part: str) -> str:
    """Return the name of a part's package of Debian."""
    return f"vitrail-{part}"


def part_of(module: str) -> str | None:
    """Return the part that has a module, None for one of the core."""
    for name, part in PARTS.items():
        if any(f"{module}.".startswith(f"{prefix}.") for prefix in part.modules):
            return name
    return None


def part_of_file(path: str) -> str | None:
    """Return the part that has a file or directory, by its path in the source."""
    for name, part in PARTS.items():
        if any(f"{path}/".startswith(f"{file}/") for file in part.files):
            return name
    return part_of(path.removesuffix(".py").replace("/", "."))
