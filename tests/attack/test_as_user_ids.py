"""Attack: another user's subordinate ids, which ``.ci/as-user`` gives to its user.

To the kernel programs of both in user namespaces would be one user's.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci/as-user"


@pytest.mark.parametrize(
    ("users", "groups", "first"),
    [
        ("", "", 1000000),
        ("ada:100000:65536\n", "ada:100000:65536\n", 1000000),
        # The 14th and 15th ordinary user, as useradd(8) gives them.
        ("ada:951968:65536\n", "", 1017504),
        ("ada:1017504:65536\n", "", 1083040),
        ("", "bob:1000000:65536\n", 1065536),
        ("ada:1000000:65536\nbob:3000000000:65536\n", "ada:1000000:1\n", 3000065536),
        ("ada:1000000:65536\n\nbroken\n", "", 1065536),
    ],
)
def test_no_subordinate_id_has_two_users(tmp_path, users, groups, first):
    (tmp_path / "subuid").write_text(users)
    (tmp_path / "subgid").write_text(groups)
    function = re.search(r"(?ms)^free_ids\(\) \{$.*?^\}$", SCRIPT.read_text())[0]
    words = ["sh", "-euc", f'{function}\nfree_ids "$@"', "sh"]
    names = ["subuid", "subgid", "missing"]
    found = subprocess.run(
        [*words, *names], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert int(found.stdout) == first
