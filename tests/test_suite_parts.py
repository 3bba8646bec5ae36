"""The parts of a run: long tests by turn and time, alone, quick, and their times."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.suite.parts import UNKNOWN_SECONDS, parts_of, plan
from tests.kit.suite.record import merged
from tests.kit.suite.times import read_times, slowness, write_times

ROOT = Path(__file__).parents[1]

names = st.lists(st.text("abcd", min_size=1, max_size=6), unique=True, max_size=40)
seconds = st.dictionaries(st.text("abcd", min_size=1, max_size=6), st.floats(0.1, 500))


@given(names, seconds, st.integers(1, 5))
def test_parts_hold_each_test_once_and_take_about_equally_long(names, times, number):
    parts = parts_of(names, times, number)
    assert sorted(name for part in parts for name in part) == sorted(names)
    sums = [sum(times.get(n, UNKNOWN_SECONDS) for n in part) for part in parts]
    longest = max((times.get(n, UNKNOWN_SECONDS) for n in names), default=0)
    assert max(sums) - min(sums) <= longest + 1e-6


@given(names, seconds, st.integers(0, 1000))
def test_plan_without_a_budget_covers_everything_in_three_turns(names, times, turn):
    plans = [plan(names, times, turn=turn + n) for n in range(3)]
    assert sorted(n for p in plans for n in p.run) == sorted(names)
    assert not any(p.left_out for p in plans)


@given(names, seconds, st.integers(0, 9), st.floats(0, 600), st.floats(0.5, 4))
def test_plan_keeps_to_its_budget_and_names_the_rest(names, times, turn, budget, slow):
    made = plan(names, times, turn=turn, budget=budget, slowness=slow)
    whole = plan(names, times, turn=turn)
    assert made.seconds <= budget
    assert sorted(made.run + made.left_out) == sorted(whole.run)
    for name in made.left_out:
        cost = times.get(name, UNKNOWN_SECONDS) * slow
        assert made.seconds + cost > budget or made.run


def test_plan_begins_elsewhere_each_turn_until_all_of_the_part_have_run():
    names = [f"t{n}" for n in range(30)]
    whole = plan(names, {}, turn=0).run
    seen = set()
    for turn in range(0, 30, 3):
        some = plan(names, {}, turn=turn, budget=4 * UNKNOWN_SECONDS).run
        assert len(some) == 4
        seen |= set(some)
    assert seen == set(whole)


def test_plan_counts_tests_beside_each_other_as_half():
    names = [f"t{n}" for n in range(30)]
    made = plan(names, {}, turn=0, budget=4 * UNKNOWN_SECONDS, cost=lambda _name: 0.5)
    assert len(made.run) == 8


def test_times_are_read_as_written(tmp_path):
    path = tmp_path / "times.tsv"
    write_times(path, {"b::x[1 2]": 2.0, "a": 0.5}, "two\nlines")
    assert path.read_text() == "# two\n# lines\n0.5\ta\n2.0\tb::x[1 2]\n"
    assert read_times(path) == {"a": 0.5, "b::x[1 2]": 2.0}
    assert read_times(tmp_path / "none") == {}
    path.write_text("1.0 a\n")
    with pytest.raises(ValueError, match="not SECONDS<TAB>NODE ID"):
        read_times(path)


def test_slowness_is_of_the_sums_of_what_both_runs_have():
    recorded = {"a": 10.0, "b": 10.0, "c": 0.1, "d": 5.0}
    assert slowness({"a": 30.0, "b": 10.0, "c": 9.0, "new": 7.0}, recorded) == 2.0
    assert slowness({}, recorded) == 1.0


def test_record_keeps_what_exists_and_drops_what_became_short(tmp_path):
    (tmp_path / "a.py").touch()
    kept = {"a.py::x": 3.0, "a.py::y": 9.0, "gone.py::z": 5.0}
    measured = {"a.py::y": 0.1, "b.py::new": 2.0}
    found = merged(kept, measured, tmp_path)
    assert found == {"a.py::x": 3.0, "b.py::new": 2.0}


def test_the_kept_times_can_be_read():
    assert read_times(ROOT / "tests" / "times.tsv")


TESTS = """\
import os
import pytest

@pytest.mark.alone
def test_alone():
    assert "PYTEST_XDIST_WORKER" not in os.environ

@pytest.mark.alone
@pytest.mark.long
def test_long_alone():
    pass

@pytest.mark.long
def test_long():
    pass

@pytest.mark.slow
def test_slow():
    pass

@pytest.mark.root
def test_for_root():
    pass

@pytest.mark.root
@pytest.mark.long
def test_long_for_root():
    pass

def test_short():
    assert not os.environ.get("FAIL")
"""


@pytest.fixture(name="run")
def _run(tmp_path):
    """Run pytest in a separate directory; returns code and what passed and failed."""
    (tmp_path / "test_them.py").write_text(TESTS)

    def run(*words, **environ):
        argv = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml")]
        argv += ["--rootdir", str(tmp_path), "-p", "tests.conftest", "-rA"]
        argv += ["-o", f"cache_dir={tmp_path}/cache", *words, str(tmp_path)]
        # The run inside must see neither this worker's variables nor the hour at which
        # CI's long tests end: after it, a run without a budget would skip them too.
        outer = {
            k: v
            for k, v in os.environ.items()
            if "PYTEST" not in k and k != "VITRAIL_LONG_UNTIL"
        }
        env = {**outer, "PYTHONPATH": str(ROOT), **environ}
        done = subprocess.run(
            argv,
            check=False,
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=90,
        )
        found = re.findall(r"^(?:PASSED|FAILED) .*::(\w+)", done.stdout, re.MULTILINE)
        return done.returncode, set(found), done.stdout

    return run


@pytest.mark.slow
def test_the_parts_of_a_run_are_all_of_it(run, tmp_path):
    code, beside, text = run("-m", "not long", "--alone=never", "-n", "2")
    assert (code, beside) == (0, {"test_short", "test_slow"}), text
    code, alone, text = run("-m", "not long", "--alone=only")
    assert (code, alone) == (0, {"test_alone"}), text
    code, quick, text = run("--quick")
    assert (code, quick) == (0, {"test_alone", "test_short"}), text
    code, rest, text = run("-m", "not long", "--quick-ran", f"elsewhere {tmp_path}")
    assert (code, rest) == (0, {"test_slow"}), text
    code, rest, text = run("-m", "not long", "--quick-ran", "elsewhere")
    assert (code, rest) == (0, {"test_alone", "test_short", "test_slow"}), text
    long = set()
    for turn in range(3):
        for part in ("never", "only"):
            code, some, text = run(
                "-m", "long", f"--long-turn={turn}", f"--alone={part}"
            )
            assert code in {0, 5}, text
            assert not long & some
            long |= some
    assert long == {"test_long", "test_long_alone"}


WORKERS = """\
import os
import select
import pytest

@pytest.fixture(scope="module", autouse=True)
def ended():
    yield
    print("fixture ended")
    assert os.environ.get("FAIL") != "fixture"

def test_first(tmp_path):
    print("printed by first")
    assert os.environ.get("FAIL") != "test"
    if os.environ.get("FAIL") == "process":
        os._exit(3)

def test_last():
    main = os.pidfd_open(os.getppid())
    if os.environ.get("FAIL") == "fork" and not os.fork():
        select.select([main], [], [])
        os._exit(0)
    os.close(main)
"""


@pytest.mark.slow
def test_workers_report_as_a_run_without_them_does(run, tmp_path):
    names = ("one", "two", "three")
    for name in names:
        tests = WORKERS.replace("test_", f"test_{name}_")
        (tmp_path / f"test_{name}.py").write_text(tests)
    firsts = {f"test_{name}_first" for name in names}
    everything = firsts | {f"test_{name}_last" for name in names}
    words = ("--workers=2", "-m", "not long", "-k", "first or last")
    code, found, text = run(*words)
    assert (code, found) == (0, everything), text
    assert len(re.findall("printed by first", text)) == 3, text
    code, found, text = run(*words, FAIL="test")
    assert (code, found) == (1, everything), text
    assert "3 failed, 3 passed" in text
    code, found, text = run(*words, "--lf")
    assert (code, found) == (0, firsts), text
    code, found, text = run(*words, FAIL="fixture")
    assert (code, found) == (1, everything), text
    assert "6 passed" in text
    assert "3 errors" in text
    code, found, text = run(*words, "-x", FAIL="test")
    assert code == 1, text
    assert "1 failed" in text
    assert "stopping after 1 failures" in text
    code, found, text = run(*words, FAIL="process")
    assert (code, found) == (1, everything), text
    # Two workers end in a first test; nobody is left for the third file.
    assert "6 failed" in text
    assert "a worker ended in this test, or before it could run" in text
    # Each last test leaves a process that ends only after the run.
    code, found, text = run(*words, FAIL="fork")
    assert (code, found) == (0, everything), text
    code, found, text = run("--workers=2", "-k", "no_such_test")
    assert (code, found) == (5, set()), text


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="root skips none of them")
def test_root_s_tests_run_in_a_part_of_their_own(run):
    _, ordinary, text = run("-m", "not long")
    assert "test_for_root" not in ordinary
    assert "for root alone" in text
    _, ordinary, text = run("-m", "not long", "--as-root=never")
    assert "test_short" in ordinary
    assert "for root alone" not in text
    for words, expected in (
        (("-m", "not long"), {"test_for_root"}),
        (("-m", "long"), {"test_long_for_root"}),
        # A person's own choice comes later and counts in place of ours.
        (
            ("-m", "not long", "-m", "alone or root"),
            {"test_for_root", "test_long_for_root"},
        ),
        (("-m", "not long", "-k", "short"), set()),
    ):
        code, found, text = run(*words, "--as-root=only")
        assert (code, found) == (0 if expected else 5, expected), text


@pytest.mark.slow
def test_a_plan_without_time_names_the_omitted_tests(run):
    seen = set()
    for turn in range(3):
        code, some, text = run(
            "-m", "long", f"--long-turn={turn}", "--long-budget=1", "-n", "2"
        )
        assert (code, some) == (5, set()), text
        seen |= set(re.findall(r"^no time .*::(\w+)", text, re.MULTILINE))
    assert seen == {"test_long", "test_long_alone"}


@pytest.mark.slow
def test_last_failed_is_kept_beside_workers_and_is_only_in_its_part(run):
    code, _, text = run("-m", "not long", "--alone=never", "-n", "2", FAIL="1")
    assert code == 1, text
    code, again, text = run("-m", "not long", "--alone=only", "--lf")
    assert (code, again) == (5, set()), text
    code, again, text = run("-m", "not long", "--alone=never", "-n", "2", "--lf")
    assert (code, again) == (0, {"test_short"}), text
