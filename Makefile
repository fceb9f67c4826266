# `make demo` and `make test` set up their own environment in .venv and need nothing else but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The CPU build of torch is enough here and far smaller; set TORCH=torch to take the index's default build.
TORCH ?= $(shell grep '^torch==' constraints.txt)
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-more test-long test-survival test-oldest test-newest test-volta lint setup setup-test setup-volta clean

demo: setup
	$(BIN)/volta-switch study run studies/demo.yaml --out runs/demo --jobs 2

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

# What make test passes over for want of a browser (Debian's chromium and chromium-driver) or because it sets up clean
# environments (some 200 MB from the index).
test-more: setup-test
	$(BIN)/python -m pytest -n 2 --dist loadfile -q --include more -m more

# The whole suite with all that make test passes over: all example scripts, five times the spoilt files, compiled layers.
test-long: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -q --include more --include long

# The tests that kill, corrupt and fill disks, in their long forms (docs/reliability.md); half an hour.
test-survival: setup-test
	KILLS=20 TERMINATIONS=5 CORRUPTIONS=1000 FULL_DISK_POINTS=100 $(BIN)/python -m pytest -n 2 -q -s --include long \
		tests/train/test_killed_training.py tests/train/test_corrupted_checkpoints.py tests/train/test_full_disk.py \
		tests/train/test_several_processes.py
	FULL_DISK_POINTS=40 $(BIN)/python -m pytest -q -s tests/train/test_runs_on_full_disks.py

# The suite's core with the lowest versions that pyproject.toml states, and with the newest that the index has, for every
# Python of PYTHONS that is found, each in a fresh environment that is removed afterwards. Gigabytes of downloads; not in
# CI. Both write what was run into versions/records and the README's table: commit it. PIN=torch==2.11.0 pins versions.
PYTHONS ?=
PIN ?=
test-oldest test-newest: test-%:
	$(PYTHON) versions/try_versions.py $* $(if $(PYTHONS),--python $(PYTHONS)) $(if $(PIN),--pin $(PIN))

# The tests that run VOLTA itself: VOLTA_HOME must name a checkout of github.com/e-bug/volta.
test-volta: setup-volta
	@test -n "$(VOLTA_HOME)" || { echo "error: set VOLTA_HOME to a checkout of github.com/e-bug/volta" >&2; exit 2; }
	$(BIN)/python -m pytest -n 2 --dist loadfile -q tests/plugin tests/data/test_read_by_volta.py tests/data/test_pretraining_read_by_volta.py
	$(BIN)/python -m pytest -n 2 --dist loadfile -q -k volta tests/data/files/test_convert.py tests/test_benchmarks.py

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.installed

setup-test: $(VENV)/.installed-test

setup-volta: $(VENV)/.installed-volta

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml setup.py constraints.txt
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,lint]"
	touch $@

$(VENV)/.installed-volta: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,volta]"
	touch $@

clean:
	rm -rf $(VENV) .versions runs build *.egg-info
