"""Which layers stay in float: found by asking a judge that knows what each costs."""

from dataclasses import dataclass, field
from itertools import chain

import pytest

from qtool.core.progress import silent
from qtool.core.records.tuning import Step
from qtool.tuning.aim import Aim
from qtool.tuning.budget import Budget
from qtool.tuning.floating import Floating
from qtool.tuning.ranking import Ranking
from qtool.tuning.trail import Trail

MACS = {"a": 5, "b": 30, "c": 4, "d": 1, "e": 60}
LAYERS = tuple(MACS)
"""The worst first; the second is too large for a limit of 0.1."""


@dataclass
class Judged:
    """Noise adds up: a start's own, and that of each layer which is not in float. A plan is (start, float)."""

    noise: dict
    least: float
    limit: float = 0.1
    macs: dict = field(default_factory=lambda: MACS)
    asked: list = field(default_factory=list)

    @property
    def aim(self):
        return Aim(None, None, self.least, self.limit)

    def share_of(self, layer):
        return MACS[layer] / 100

    def float_share(self, plan):
        return sum(MACS[layer] for layer in plan[1]) / 100

    def judge(self, plans):
        self.asked += [set(plan[1]) for plan in plans.values()]
        return {what: self._step(what, *plan) for what, plan in plans.items()}

    def _step(self, what, name, floating):
        figure = 40.0 - self.noise[name] - sum(self.noise.get(layer, 0) for layer in LAYERS if layer not in floating)
        share = self.float_share((name, floating))
        met = figure >= self.least and share <= self.limit
        return Step(what, figure, None, figure, len(floating), share, met=met, measured="sqnr", relative=True)

    def write(self, plan, *_):
        return plan, plan


@dataclass(frozen=True)
class Started:
    judge: Judged
    label: str

    @property
    def name(self):
        return f"{self.label}!"

    def plan(self, floating=(), **_):
        return self.label.rstrip("!"), tuple(floating)


def searched(judge, tmp_path, *, rounds=1, heads=None):
    trail = Trail(tmp_path / "q.onnx", None, Budget(None), lambda _: None)
    starts = [Started(judge, name) for name in judge.noise if name not in MACS]
    floating = Floating(trail, starts[0], starts[1:], lambda *_: Ranking((*LAYERS, "last"), heads or {}), silent)
    for _, _ in zip(range(rounds), chain(floating.rounds(), [None]), strict=False):
        pass
    return trail, floating


def test_a_layer_that_is_too_large_makes_way_for_the_next(tmp_path):
    judge = Judged({"max": 0, "a": 4, "b": 3, "c": 2, "d": 1}, least=36.0)
    trail, _ = searched(judge, tmp_path)
    assert trail.met and trail.plan == ("max", ("a", "c"))
    assert not any("b" in asked for asked in judge.asked)


def test_another_start_may_be_better_with_the_worst_layers_in_float(tmp_path):
    judge = Judged({"max": 6, "mse": 1, "a": 4, "c": 2}, least=38.0)
    trail, _ = searched(judge, tmp_path)
    assert trail.met and trail.plan == ("mse", ("a", "c"))
    assert trail.best.what.startswith("mse!float: ")


@pytest.mark.parametrize(("limit", "needed"), [(0.0, 0.39), (0.34, 0.39), (0.4, None)])
def test_what_would_do_it_is_found_and_not_kept(tmp_path, limit, needed):
    judge = Judged({"max": 0, "a": 4, "b": 3, "c": 2}, least=39.5, limit=limit)
    trail, floating = searched(judge, tmp_path, rounds=9)
    assert floating.needed == (None if needed is None else pytest.approx(needed))
    assert trail.best is None or trail.best.float_macs <= limit


@pytest.mark.parametrize(("least", "floating"), [(32.0, ("c", "d")), (30.0, ("c",)), (38.0, ("a", "c"))])
def test_a_head_is_left_in_float_at_once_and_then_as_little_of_it_as_does(tmp_path, least, floating):
    """One that is too large is not tried, and where one that fits does not do it, layers are searched as without it."""
    judge = Judged({"max": 0, "a": 8, "c": 2, "d": 2}, least=least)
    trail, _ = searched(judge, tmp_path, heads={"large": ("b", "e"), "head of y": ("c", "d")})
    assert {"b", "e"} not in judge.asked and judge.asked[0] == {"c", "d"}
    assert trail.steps[0].what.endswith("float: head of y")
    assert trail.met and set(trail.plan[1]) == set(floating)
