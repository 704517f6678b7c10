# `make demo` to try it, `make check` at every edit, `make test` before a change lands; each sets up .venv on a fresh machine.
# `make help` lists the rest.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CLUSTER ?= /tmp/cxr-cluster
# Many tests wait for a scheduler: two at once take little more of two cores than one. A file is one worker's; the longest go first.
WORKERS ?= 2
TODAY := $(shell date +%Y-%m-%d)

.PHONY: help demo check fast test lint style types mutation audit bench proof docs docs-pages cluster-up cluster-down clean
.DEFAULT_GOAL := help

help:  ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	@touch $@

demo: $(READY)  ## Phantoms to report on this machine; run it again to resume
	$(BIN)/cxr demo

check: $(READY)  ## Lint, types and the fast tests, in under a minute
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types style fast

fast: $(READY)  ## The tests of tests/unit that take under half a second each
	$(BIN)/python -m pytest tests/unit -m 'not slow' -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q --durations=5 --durations-min=0.5 $(ARGS)

test: $(READY)  ## All tests but the long proofs, with the coverage of cxr_core
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov=cxr_core --cov-report=term:skip-covered --cov-fail-under=85 --durations=20 $(ARGS)

lint: style types  ## ruff and mypy

style: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy
	$(BIN)/mypy

mutation: $(READY)  ## How many small defects put into four modules their tests find; the output is kept under tests/proof/results/
	@mkdir -p tests/proof/results
	set -o pipefail; WORKERS=$(WORKERS) $(BIN)/python -m tests.mutation $(ARGS) | tee tests/proof/results/$(TODAY)-mutation.txt

audit: $(READY)  ## Known weaknesses of the packages in the lock files, where an index answers
	$(BIN)/python containers/audit.py $(VENV)/audit

bench: $(READY)  ## The benchmark table; ROW=C1 for one row
	$(BIN)/python -m tests.bench $(if $(ROW),ROW=$(ROW))

proof: $(READY)  ## A long proof, e.g. make proof TARGET=kill; its output is kept under tests/proof/results/
	@test -n "$(TARGET)" || { echo "TARGET is one of:"; ls tests/proof/test_*.py | sed 's/.*test_//; s/\.py//'; exit 2; }
	@mkdir -p tests/proof/results
	set -o pipefail; { $(BIN)/python -m docs.tools.header make proof TARGET=$(TARGET) $(if $(ARGS),ARGS='$(ARGS)'); \
		$(BIN)/python -m pytest -m proof -s --no-header --timeout=0 tests/proof/test_$(TARGET).py $(ARGS) 2>&1; } \
		| tee tests/proof/results/$(TODAY)-$(TARGET).txt

docs: docs-pages  ## The pages as a site in build/site, without any network; a wrong link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo build/site/index.html

docs-pages: $(READY)  ## Write the pages that the code knows: reference, run folder, measured
	$(BIN)/python -m docs.tools

cluster-up: $(READY)  ## A Slurm cluster of four nodes on this machine, as root; CLUSTER=FOLDER ACCOUNTING=1
	$(BIN)/python -m tests.slurm.cluster up $(CLUSTER) $(if $(ACCOUNTING),--accounting)

cluster-down: $(READY)  ## Stop it
	$(BIN)/python -m tests.slurm.cluster down $(CLUSTER)

clean:  ## Remove what was built, not the runs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

SHELL := /bin/bash
