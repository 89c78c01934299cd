"""What `quantize` is told to leave in float, in each way that it may be said."""

import pytest

import qtool
from qtool.core.errors import UsageError
from qtool.core.records.options import Scheme
from tests.support.places import SHIPPED

MODEL, CALIB = SHIPPED / "digits_cnn.onnx", SHIPPED / "digits_calib.npz"


@pytest.fixture(scope="module")
def statistics():
    return qtool.calibrate(MODEL, CALIB, samples=8).statistics


@pytest.fixture
def floating(statistics, tmp_path):
    """The layers that stay float, by options of `quantize`."""

    def call(**options):
        fast = {"calibrator": "max", "bias_correction": "off", "target": "x86", "smoothing": "off"}
        result = qtool.quantize(MODEL, tmp_path / "q.onnx", calibration=statistics, **fast, **options)
        return set(result.verification.float_layers)

    return call


@pytest.mark.long
def test_names_are_taken_as_keywords_and_in_a_scheme(floating):
    assert floating() == set()
    for exclude in (["classifier"], ("classifier",), "classifier"):
        assert floating(exclude=exclude) == {"classifier"}
        assert floating(scheme=Scheme(exclude=exclude)) == {"classifier"}
    assert floating(exclude_ops=["Gemm"]) == floating(exclude_ops="Gemm") == {"classifier"}
    convolutions = floating(include_ops=["Gemm"])
    assert len(convolutions) == 16 and "classifier" not in convolutions
    assert floating(scheme=Scheme(include_ops="Gemm")) == convolutions


def test_both_together_where_they_do_not_contradict(floating):
    assert floating(scheme=Scheme(exclude_ops=["Gemm"]), exclude=["stem_conv"]) == {"classifier", "stem_conv"}


@pytest.mark.parametrize("field", ["include_ops", "exclude_ops", "exclude"])
def test_the_same_twice_is_refused(floating, field):
    with pytest.raises(UsageError, match=f"{field} is given twice, once in scheme; leave one of them out"):
        floating(scheme=Scheme(**{field: ["Gemm"]}), **{field: ["Conv"]})


def test_a_scheme_keeps_names_as_tuples():
    assert Scheme(exclude=["a", "b"], include_ops="Conv") == Scheme(exclude=("a", "b"), include_ops=("Conv",))
    assert hash(Scheme(exclude=["a"])) == hash(Scheme(exclude=("a",)))
