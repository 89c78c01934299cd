"""The parts that `make fuzz` runs, and what it allows them."""

import os
import subprocess
import sys

import pytest

from tests.support.fuzz import campaigns
from tests.support.places import REPOSITORY


def test_every_campaign_has_its_share():
    parts = campaigns(10_000, 7)
    assert [words[0].rpartition(".")[2] for words in parts] == [
        "mutants",
        "hostile",
        "campaign",
        "campaign",
        "campaign",
    ]
    graphs = sum(int(words[words.index("--graphs") + 1]) for words in parts[2:])
    # ten kinds of files, three forms of each network
    cases = int(parts[0][1]) + 10 * int(parts[1][2]) + 3 * graphs
    assert 0.95 * 10_000 <= cases <= 1.05 * 10_000


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("open(os.path.join(folder, 'x'), 'w').close()", 0),
        ("import json, email.message", 0),
        ("open(os.path.join(folder, '..', 'x'), 'w')", 70),
        ("open('/root/.ssh/id')", 70),
    ],
)
def test_what_a_campaign_may_open(tmp_path, line, code):
    script = f"from tests.support.fuzz import confine\nimport os\nfolder = {str(tmp_path)!r}\nconfine()\n{line}"
    environment = {**os.environ, "QTOOL_FUZZ_FOLDER": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-B", "-c", script], env=environment, capture_output=True, check=False)
    assert done.returncode == code, done.stderr
