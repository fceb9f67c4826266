# `make demo` and `make test` set up their own environment in .venv and need nothing else but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# `make test-volta` has one of its own: what [test] brings would hide what [volta] lacks.
VOLTA_VENV ?= .venv-volta
VOLTA_BIN := $(VOLTA_VENV)/bin
# The CPU build of torch is enough here and far smaller; set TORCH=torch to take the index's default build.
TORCH ?= $(shell grep '^torch==' constraints.txt)
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-long test-survival test-volta volta-home lint setup setup-test setup-volta clean

demo: setup
	$(BIN)/volta-switch study run studies/demo.yaml --out runs/demo --jobs 2

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

# The whole suite with what make test passes over: all example scripts, five times the spoilt files, compiled layers.
test-long: lint
	LONG=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

# The tests that kill, corrupt and fill disks, in their long forms (docs/reliability.md); half an hour.
test-survival: setup-test
	LONG=1 KILLS=20 TERMINATIONS=5 CORRUPTIONS=1000 FULL_DISK_POINTS=100 $(BIN)/python -m pytest -n 2 -q -s \
		tests/train/test_killed_training.py tests/train/test_corrupted_checkpoints.py tests/train/test_full_disk.py \
		tests/train/test_several_processes.py
	FULL_DISK_POINTS=40 $(BIN)/python -m pytest -q -s tests/train/test_runs_on_full_disks.py

# The tests that run VOLTA itself: VOLTA_HOME must name a checkout of github.com/e-bug/volta.
test-volta: export VOLTA_HOME := $(abspath $(VOLTA_HOME))
test-volta: volta-home setup-volta
	$(VOLTA_BIN)/python -m pytest -n 2 --dist loadfile -q tests/plugin tests/data/test_read_by_volta.py tests/data/test_pretraining_read_by_volta.py
	$(VOLTA_BIN)/python -m pytest -n 2 --dist loadfile -q -k volta tests/data/files/test_convert.py tests/test_benchmarks.py

volta-home:
	@test -f "$(VOLTA_HOME)/volta/encoders.py" || { \
		echo "error: VOLTA_HOME=$(VOLTA_HOME): set it to a checkout of github.com/e-bug/volta" >&2; exit 2; }

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.installed

setup-test: $(VENV)/.installed-test

setup-volta: $(VOLTA_VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml setup.py constraints.txt
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test]"
	touch $@

$(VOLTA_BIN)/python:
	$(PYTHON) -m venv $(VOLTA_VENV)

# pytest and its like run the tests, which read H5 files; all else that they and VOLTA import, [volta] must bring.
$(VOLTA_VENV)/.installed: $(VOLTA_BIN)/python pyproject.toml setup.py constraints.txt
	$(VOLTA_BIN)/python -m pip install --quiet "$(TORCH)"
	$(VOLTA_BIN)/python -m pip install --quiet -c constraints.txt -e ".[volta]"
	$(VOLTA_BIN)/python -m pip install --quiet -c constraints.txt pytest pytest-xdist hypothesis h5py
	touch $@

clean:
	rm -rf $(VENV) $(VOLTA_VENV) runs build *.egg-info
