"""What all tests of commands share."""

import pytest

from qtool.report import finetune, quantize


@pytest.fixture(autouse=True)
def _how_fast_toys_are_is_not_said(monkeypatch):
    """A network of a few layers is as fast as the machine is idle; what is said of it is tested in tests/report."""
    for module in (quantize, finetune):
        monkeypatch.setattr(module, "slower_line", lambda *_: "")
