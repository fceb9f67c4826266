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

.PHONY: demo quick golden-runs test test-more test-long test-survival test-oldest test-newest test-volta test-peers test-cuda volta-home \
	lint setup setup-test setup-volta clean

demo: setup
	$(BIN)/volta-switch study run studies/demo.yaml --out runs/demo --jobs 2

# One small Switch-BERT on one task, and a picture of its input and its answers: runs/quick/answers.png.
quick: setup
	$(BIN)/volta-switch quick

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

# What make test skips: it needs a browser (Debian's chromium and chromium-driver), or sets up clean
# environments (some 200 MB from the index).
test-more: setup-test
	$(BIN)/python -m pytest -n 2 --dist loadfile -q --include more -m more

# The whole suite with all that make test skips: all example scripts, five times the corrupted files, compiled layers.
test-long: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -q --include more --include long

# The tests that kill, corrupt and fill disks, in their long forms (docs/reliability.md); half an hour.
test-survival: setup-test
	KILLS=20 TERMINATIONS=5 CORRUPTIONS=1000 FULL_DISK_POINTS=100 $(BIN)/python -m pytest -n 2 -q -s --include long \
		tests/train/test_killed_training.py tests/train/test_corrupted_checkpoints.py tests/train/test_full_disk.py \
		tests/train/test_several_processes.py
	MUTATIONS=2000 $(BIN)/python -m pytest -n 2 -q --include long tests/test_mutations.py
	FULL_DISK_POINTS=40 $(BIN)/python -m pytest -q -s tests/train/test_runs_on_full_disks.py

# The numbers that small runs of every kind gave, written anew after RESULTS_VERSION was raised with them.
golden-runs: setup-test
	PYTHONPATH=. $(BIN)/python tests/golden_runs.py

# Imported models beside the code of the projects that they come from (PEERS_HOME, docs/testing.md).
test-peers: setup-test
	$(BIN)/python -m pytest -q tests/weight_tools

# What only a CUDA GPU can show, in 4 minutes, the most telling first. It takes PYTHON as it is and installs nothing: torch,
# numpy and pytest are enough, and a test that needs more is skipped and says so. REHEARSE_ON=cpu rehearses it elsewhere.
test-cuda:
	@$(PYTHON) tests/gpu/check_machine.py pytest
	@PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONPATH=. TEST_CUDA_SECONDS=$${TEST_CUDA_SECONDS:-215} \
		timeout --signal=INT --kill-after=5 232 $(PYTHON) -m pytest -q -p no:cacheprovider --tb=short \
		--confcutdir=tests/gpu -o faulthandler_timeout=60 tests/gpu

# The suite's core with the lowest versions that pyproject.toml states, and with the newest that the index has, for every
# Python of PYTHONS that is found, each in a fresh environment that is removed afterwards. Gigabytes of downloads; not in
# CI. Both write what was run into versions/records and docs/versions.md: commit it. PIN=torch==2.11.0 pins versions.
PYTHONS ?=
PIN ?=
test-oldest test-newest: test-%:
	$(PYTHON) versions/try_versions.py $* $(if $(PYTHONS),--python $(PYTHONS)) $(if $(PIN),--pin $(PIN))

# The tests that run VOLTA itself: VOLTA_HOME must name a checkout of github.com/e-bug/volta.
test-volta: export VOLTA_HOME := $(abspath $(VOLTA_HOME))
test-volta: volta-home setup-volta
	$(VOLTA_BIN)/python -m pytest -n 2 --dist loadfile -q tests/plugin tests/data/test_read_by_volta.py tests/data/test_pretraining_read_by_volta.py \
		tests/ablation/test_ablation_in_volta.py
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
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,lint]"
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
	rm -rf $(VENV) $(VOLTA_VENV) .versions runs build *.egg-info
