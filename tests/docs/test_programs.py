"""``docs/programs.md`` has the stored results, and each program of the table once."""

from __future__ import annotations

from docs.print_programs import PAGE, page, take
from tests.programs.table import PROGRAMS


def test_the_page_has_the_results():
    assert page(PAGE.read_text()) == PAGE.read_text()


def test_each_program_has_one_row_and_one_kind_of_proof():
    names = [program.name for program in PROGRAMS]
    assert len(names) == len(set(names))
    assert all(bool(program.says) != bool(program.title) for program in PROGRAMS)


def test_results_of_boxes_leave_those_of_containers_and_micro_vms():
    row = {"directly": "", "box": "", "persistent": "", "podman": "", "machine": ""}
    results = {"dates": {"machine": "2026-01-02"}, "rows": {"foot": row}}
    new = {"directly": "printed nothing"}
    take(results, {"date": "2026-01-03", "name": "foot", "row": new})
    assert results["rows"]["foot"] == {**new, "podman": "", "machine": ""}
    assert results["dates"] == {"directly": "2026-01-03", "machine": "2026-01-02"}
