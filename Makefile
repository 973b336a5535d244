# Every target sets up what it needs, in .venv, from nothing but a python3 (3.10 or newer) with venv and pip.
#
#   make demo    play the bundled world and write a report to dsa-demo/
#   make play    play it yourself, in the browser
#   make test    all tests                        make test PYTEST_ARGS="--slow -k cache"
#   make lint    ruff and mypy
#   make docs    the reference of the public names, as HTML in build/docs
#   make bench   ticks per second on this machine
#   make clean   remove the environment, caches and reports
#
# PyPI's Linux wheels of torch bring CUDA along (gigabytes). For the CPU build:
#   make test TORCH_SPEC="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
VENV ?= .venv
# Only tests of the training side need torch. Without it they are skipped, and the test report says so.
TORCH_SPEC ?= torch==2.13.0
PYTEST_ARGS ?=
# At most four: some tests start processes and threads of their own.
TEST_PROCESSES ?= auto --maxprocesses=4
DEMO_ARGS ?=
PLAY_ARGS ?=
BENCH_ARGS ?=

# The wheels of ONNX Runtime report to their maker unless told otherwise.
export ORT_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN := $(VENV)/bin
BASE := $(VENV)/base.stamp
DEV := $(VENV)/dev.stamp

.DEFAULT_GOAL := help
.PHONY: help demo play test lint docs bench clean

help:
	@sed -n '/^#   make/s/^# *//p' Makefile

demo: $(BASE)
	$(BIN)/dsa demo $(DEMO_ARGS)

play: $(BASE)
	$(BIN)/dsa play $(PLAY_ARGS)

test: $(DEV)
	$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile $(PYTEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DEV)
	$(BIN)/python docs/reference.py build/docs

bench: $(DEV)
	$(BIN)/python -m tests.bench.bench_tick $(BENCH_ARGS)

clean:
	rm -rf dsa_runtime/ops/libdsa_ops.* $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis dsa-demo
	find dsa_runtime exporters tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What is compiled at installation. Headers too: a change of one changes the library.
OPS := $(wildcard dsa_runtime/ops/csrc/* dsa_runtime/ops/csrc/*/*) dsa_runtime/ops/build.py setup.py

$(BASE): pyproject.toml $(OPS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo 'DSA Runtime needs Python 3.10 or newer: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' \
	    || { echo 'This Python lacks venv; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[viewer]'
	@touch $@

$(DEV): $(BASE)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@# torch first and alone: its own index, where one is given, holds nothing else.
	$(BIN)/python -m pip install --quiet $(TORCH_SPEC) && $(BIN)/python -m pip install --quiet --editable '.[dev,train,convert]' \
	    || echo 'WARNING: the training side could not be installed; its tests will be skipped' >&2
	@touch $@
