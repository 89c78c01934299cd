# `make demo` and `make test` need Python 3.11 or later, pip and make; they build their own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo fast test test-long times test-finetune test-zoo test-versions fuzz bench site lint types sdist clean FORCE
# two goals of one call would install into the same environment side by side
.NOTPARALLEL:

# calibrate, quantize and eval on the shipped network and the handwritten digits in calib_data/
demo: $(VENV)/demo
	mkdir -p demo-out
	$(BIN)/qtool calibrate calib_data/digits_cnn.onnx --data calib_data/digits_calib.npz -o demo-out/digits.calib
	$(BIN)/qtool quantize calib_data/digits_cnn.onnx --calibration demo-out/digits.calib -o demo-out/digits.int8.onnx
	$(BIN)/qtool eval calib_data/digits_cnn.onnx demo-out/digits.int8.onnx --data calib_data/digits_eval.npz \
	  --metric top1 --max-drop 1% --latency

# quick tests, and a few cases of those that take longer: under 30 seconds on 2 cores, to be run while one works
fast: $(VENV)/dev
	$(BIN)/python -m pytest -q -n 2 --fast

# under 5 minutes on 2 cores
test: $(VENV)/dev
	$(BIN)/python -m pytest -q -n 2 -m 'not slow and not long'

# the tests that it has no room for, and that CI runs all the same: a few minutes
test-long: $(VENV)/dev
	$(BIN)/python -m pytest -q -n 2 -m 'long and not slow'

# the same on an idle machine, to measure what `make fast` can run (tests/support/times.txt)
times: $(VENV)/dev
	QTOOL_ZOO=none $(BIN)/python -m pytest -q -n 2 -m 'not slow and not long' --times

# the slow and long tests too, on the real models of the zoo ($$QTOOL_ZOO or ../shared/zoo)
test-zoo: $(VENV)/dev
	$(BIN)/python -m pytest -q -m 'zoo or slow or long'

# the tests of fine-tuning, which `make test` skips where torch is not installed: $(BIN)/pip install -e '.[dev,finetune]'
test-finetune: $(VENV)/dev
	$(BIN)/python -c 'import torch'
	$(BIN)/python -m pytest -q tests/finetuning -m 'not slow'

# with the oldest and the newest packages that pyproject.toml admits, on each Python that is there: an hour and more
test-versions: $(VENV)/dev
	$(BIN)/python -m tests.support.versions

# changed models and files, and random networks: CASES of them, from SEED on (default: another part each day)
CASES ?= 10000
fuzz: $(VENV)/dev
	$(BIN)/python -m tests.support.fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED))

# side by side with onnxruntime's own quantizer and NNCF, each in a virtual environment of its own (bench-out/venvs), on
# the zoo's models ($$QTOOL_ZOO or ../shared/zoo); writes docs/benchmarks.md
bench: $(VENV)/dev
	$(BIN)/python -m bench

# the pages of docs/ as a site, in site/
site: $(VENV)/dev
	$(BIN)/python -m mkdocs build --strict --quiet

lint: $(VENV)/dev
	$(BIN)/ruff check qtool tests bench calib_data examples
	$(BIN)/ruff format --check qtool tests bench calib_data examples

types: $(VENV)/dev
	$(BIN)/mypy

# what is published: dist/qtool-VERSION.tar.gz, and the wheel that is built from it
sdist: $(VENV)/dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) demo-out bench-out site build dist qtool.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The virtual environment. $(VENV)/python says what it was made with: the version, and the interpreter itself where $(PYTHON)
# is a link to it. While $(VENV)/unfinished is there, an installation has not come to its end.
IDENTITY := import os, sys; sys.version_info < (3, 11) and sys.exit(1); base = getattr(sys, "_base_executable", sys.executable); \
  print("%d.%d" % sys.version_info[:2], os.path.realpath(base))

# made again where it is not whole, or where another Python is asked for; a PYTHON that will not do leaves it alone
$(VENV)/python: FORCE
	@whole=$$([ ! -e $(VENV)/unfinished ] && $(BIN)/python -c pass 2>/dev/null && cat $@ 2>/dev/null); \
	[ -n "$$whole" ] && [ "$(origin PYTHON)" = file ] && exit; \
	asked=$$($(PYTHON) -c '$(IDENTITY)' 2>/dev/null) && [ -x "$${asked#* }" ] || { \
	  echo 'PYTHON=$(PYTHON) is not Python 3.11 or later; name one: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }; \
	[ "$$whole" = "$$asked" ] || { rm -rf $(VENV) && "$${asked#* }" -m venv $(VENV) && echo "$$asked" > $@; }

$(VENV)/demo: EXTRAS :=
$(VENV)/dev: EXTRAS := [dev]
$(VENV)/demo $(VENV)/dev: $(VENV)/python pyproject.toml
	touch $(VENV)/unfinished
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.$(EXTRAS)'
	touch $@
	rm $(VENV)/unfinished
