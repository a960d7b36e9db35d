# secagg-lora: `make demo` runs a federation on this machine, `make test` runs every check.
# Both make their own .venv the first time and whenever pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SECAGG ?= masked
OUT    ?= out/demo
REPORT ?= out/report
FUZZ_SECONDS ?= 600
FUZZ_TARGETS ?=
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-all fuzz mutants quality bench bench-full clean

help:
	@sed -n '1,2p' Makefile
	@echo "targets: demo  test  test-all  fuzz  mutants  quality  bench  bench-full  clean"

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing into $(VENV) (once) ..."
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing what the tests need (once) ..."
	$(PIP) --editable '.[dev,sim]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(PIP) --editable '.[dev,sim,fuzz]'
	@touch $@

demo: $(VENV)/.run
	$(BIN)/fedserver --demo --secagg $(SECAGG) --out $(OUT)

quality: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: quality
	$(BIN)/python -m pytest

test-all: quality
	$(BIN)/python -m pytest -m "slow or not slow"

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS) --out out/fuzz $(FUZZ_TARGETS)

# Takes away one defence after the other and shows that the test named for it in tests/mutants/table fails.
mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants.run

# Measures what protection costs and renders it as a report; a claim that does not hold fails the run after the report.
bench: PROFILE := quick
bench-full: PROFILE := full
bench bench-full: $(VENV)/.dev
	@mkdir -p .benchmarks
	@rm -f .benchmarks/latest.json
	BENCH_PROFILE=$(PROFILE) $(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-disable-gc -o python_files='bench_*.py' -o addopts='' --benchmark-json=.benchmarks/latest.json; \
	status=$$?; test -s .benchmarks/latest.json && $(BIN)/python -m benchmarks.report .benchmarks/latest.json --out $(REPORT) && exit $$status

clean:
	rm -rf out .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
