"""A newer onnxruntime than those that are tested is named; the oldest packages are those of pyproject.toml."""

import onnxruntime
import pytest

from qtool.runtime.versions import NEWEST_TESTED, version_doubts
from tests.support.versions import oldest

MAJOR, MINOR = NEWEST_TESTED


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.22.0", False),
        (f"{MAJOR}.{MINOR}.1", False),
        (f"{MAJOR}.{MINOR + 1}.0", True),
        ("2.0.0", True),
        ("2.0.0rc1", True),
        ("a build of ours", False),
    ],
)
def test_a_newer_one_is_a_warning(monkeypatch, version, said):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    doubts = version_doubts()
    assert bool(doubts) is said
    assert not said or f"onnxruntime {version} is newer than" in doubts[0]


def test_the_one_that_is_installed_is_tested():
    assert version_doubts() == (), "run the tests of patterns, then raise NEWEST_TESTED"


def test_the_oldest_packages(tmp_path):
    project = tmp_path / "pyproject.toml"
    lines = (
        "onnx>=1.18",
        "numpy >= 1.26; python_version < '3.13'",
        "numpy>=2.1; python_version >= '3.13'",
        "click>=8.1,<9",
    )
    project.write_text(f"[project]\ndependencies = {list(lines)}\n")
    assert oldest("3.11", project) == ["onnx==1.18.*", "numpy==1.26.*", "click==8.1.*"]
    assert oldest("3.14", project) == ["onnx==1.18.*", "numpy==2.1.*", "click==8.1.*"]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_each_python_has_each_package_once(python):
    names = [line.partition("==")[0] for line in oldest(python)]
    assert sorted(names) == ["click", "numpy", "onnx", "onnx-ir", "onnxruntime", "tqdm"]
