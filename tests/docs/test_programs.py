"""``docs/programs.md`` has the stored results, and each program of the table once."""

from __future__ import annotations

from docs.print_programs import PAGE, page
from tests.programs.table import PROGRAMS


def test_the_page_has_the_results():
    assert page(PAGE.read_text()) == PAGE.read_text()


def test_each_program_has_one_row_and_one_kind_of_proof():
    names = [program.name for program in PROGRAMS]
    assert len(names) == len(set(names))
    assert all(bool(program.says) != bool(program.title) for program in PROGRAMS)
