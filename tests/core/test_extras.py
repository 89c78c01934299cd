"""The packages that messages name are those of the extras."""

import tomllib

from packaging.requirements import Requirement

from qtool.core.extras import PACKAGES, installed_by
from tests.support.places import REPOSITORY


def test_the_packages_are_those_of_the_extras():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    needed = {name: {Requirement(line).name for line in lines} for name, lines in extras.items() if name != "dev"}
    assert {name: set(packages.split()) for name, packages in PACKAGES.items()} == needed
    assert installed_by("text") == "pip install tokenizers (or pip install '.[text]' in qtool's folder)"
