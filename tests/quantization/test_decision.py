"""What `mend` keeps of what the search for layers in float finds: by figures that are given, without a model."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import pytest

from qtool.core.records.results import LeftFloat
from qtool.quantization import decision as module
from qtool.quantization.decision import Decision, Proven, mend
from qtool.quantization.wanted import Wanted

LEFT = (LeftFloat(("node",), 0.01, 3.0),)


@dataclass(frozen=True)
class Candidate:
    """A candidate whose outputs have `db` where it is reported; plain: with nothing in float for speed."""

    db: float
    plain: "Candidate | None" = None
    plan: str = ""
    graph: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(seen=None))
    floating: frozenset = field(default_factory=frozenset)
    trial: None = None

    def everywhere(self):
        return self.plain


@dataclass
class Search:
    """Finds the next of `finds` for its candidate, first by `found`, then by `further`."""

    candidate: Candidate
    wanted: Wanted
    exact: None
    request: None
    finds: ClassVar[dict] = {}
    asked: ClassVar[list] = []
    needed: ClassVar[None] = None

    @property
    def figure(self):
        return self.candidate.db

    def found(self, reported):
        return self._next("found", reported)

    def further(self, _, reported):
        return self._next("further", reported)

    def _next(self, how, reported):
        self.asked.append((how, reported))
        made = self.finds.get((self.candidate.db, how))
        return (self.candidate, ()) if made is None else (Candidate(made), LEFT)

    def noisiest(self, _):
        return ()


def proof(db):
    return SimpleNamespace(judged_db=db, sqnr_db_by_output={"y": db}, sqnr_db_before={}, but_for_one=lambda _: False)


@pytest.fixture
def mended(monkeypatch):
    """The proven plan that `mend` returns for a candidate, and what the search was asked for."""

    def run(candidate, finds, wanted=20.0):
        monkeypatch.setattr(Search, "finds", finds)
        monkeypatch.setattr(Search, "asked", [])
        monkeypatch.setattr(module, "PartialSearch", Search)
        monkeypatch.setattr(module, "prove", lambda made, _: Proven(made, None, proof(made.candidate.db)))
        begun = Proven(Decision(None, candidate.plan, (), candidate), None, proof(candidate.db))
        return mend(begun, Wanted(wanted, 0.1), None, None), Search.asked

    return run


def test_what_is_good_enough_is_not_searched(mended):
    result, asked = mended(Candidate(20.5), {})
    assert (result.proof.judged_db, result.before_db, asked) == (20.5, 20.5, [])


def test_what_gains_less_than_a_decibel_is_kept_only_where_it_reaches_what_is_wanted(mended):
    assert mended(Candidate(15.0), {(15.0, "found"): 15.9})[0].proof.judged_db == 15.0
    assert mended(Candidate(15.0), {(15.0, "found"): 16.1})[0].proof.judged_db == 16.1
    assert mended(Candidate(19.5), {(19.5, "found"): 20.1})[0].proof.judged_db == 20.1


def test_what_falls_short_where_it_reports_is_searched_once_more(mended):
    result, asked = mended(Candidate(15.0), {(15.0, "found"): 18.0, (15.0, "further"): 21.0})
    assert asked == [("found", 15.0), ("further", 18.0)]
    assert (result.proof.judged_db, result.before_db, result.left) == (21.0, 15.0, LEFT)
    # what was found first stays where no more is found
    assert mended(Candidate(15.0), {(15.0, "found"): 18.0, (15.0, "further"): 17.0})[0].proof.judged_db == 18.0


def test_what_is_float_for_speed_is_given_up_where_the_outputs_are_far_better_without(mended):
    far, near = Candidate(10.0, plain=Candidate(13.0)), Candidate(10.0, plain=Candidate(11.5))
    assert mended(far, {})[0].proof.judged_db == 13.0
    assert mended(far, {(13.0, "found"): 20.5})[0].proof.judged_db == 20.5
    assert mended(near, {(11.5, "found"): 20.5})[0].proof.judged_db == 10.0
    # the better one of both ways is kept
    assert mended(far, {(10.0, "found"): 15.0})[0].proof.judged_db == 15.0
