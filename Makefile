# `make demo` and `make test` need Python 3.11 or later, pip and make; they build their own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-zoo bench lint types clean

$(VENV)/demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# calibrate, quantize and eval on the shipped network and the handwritten digits in calib_data/
demo: $(VENV)/demo
	mkdir -p demo-out
	$(BIN)/qtool calibrate calib_data/digits_cnn.onnx --data calib_data/digits_calib.npz -o demo-out/digits.calib
	$(BIN)/qtool quantize calib_data/digits_cnn.onnx --calibration demo-out/digits.calib -o demo-out/digits.int8.onnx
	$(BIN)/qtool eval calib_data/digits_cnn.onnx demo-out/digits.int8.onnx --data calib_data/digits_eval.npz \
	  --metric top1 --max-drop 1% --latency

test: $(VENV)/dev
	$(BIN)/python -m pytest -q -n 2 -m 'not slow'

# the slow tests too, on the real models of the zoo ($$QTOOL_ZOO or ../shared/zoo)
test-zoo: $(VENV)/dev
	$(BIN)/python -m pytest -q -m 'zoo or slow'

# side by side with onnxruntime's own quantizer and NNCF, each in a virtual environment of its own (bench-out/venvs), on
# the zoo's models ($$QTOOL_ZOO or ../shared/zoo); writes docs/benchmarks.md
bench: $(VENV)/dev
	$(BIN)/python -m bench

lint: $(VENV)/dev
	$(BIN)/ruff check qtool tests bench calib_data
	$(BIN)/ruff format --check qtool tests bench calib_data

types: $(VENV)/dev
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo-out bench-out build qtool.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
