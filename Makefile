# make demo: from a fresh clone to a report.   make test: lint, types, tests.   PYTHON=… picks the interpreter.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
STUDIO ?= demo-studio
STAMP := $(VENV)/.installed
# -n: processes that run tests side by side
TEST_JOBS ?= 2

.PHONY: help setup demo demo-studio test lint types unit durability bench-quick bench-speed clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(STAMP) ## a virtual environment with pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	python=$${PYTHON:-}
	if [ -z "$$python" ]; then
		for candidate in python3.11 python3.12 python3.13 python3; do
			command -v $$candidate >/dev/null || continue
			if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then python=$$candidate; break; fi
		done
	fi
	[ -n "$$python" ] || { echo "error: no Python 3.11 or newer found"; echo "  fix: install it, or run make PYTHON=/path/to/python3.11"; exit 2; }
	[ -x $(BIN)/python ] || $$python -m venv $(VENV)
	# torch first and alone: it is the largest, and a build for this machine's CPU or GPU may already be there
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## the whole loop on the embedded world: a table here and demo/report.html
	$(BIN)/tropism demo $(DEMO)

demo-studio: $(STAMP) ## judge pairs and clips in a browser while a policy learns from it; Ctrl-C ends it
	exec $(BIN)/tropism demo studio $(STUDIO)

test: lint types unit ## ruff, mypy and every test (durability with a few kills)

lint: $(STAMP) ## ruff, check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

unit: $(STAMP) ## pytest
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(TEST_JOBS) --dist loadfile

durability: $(STAMP) ## thirty kills over a small study's run time
	TROPISM_KILLS=$${TROPISM_KILLS:-30} $(BIN)/pytest -m durability --timeout 3600 -s

bench-quick: $(STAMP) ## every benchmark in its small case (DATA=FOLDER for those on public data)
	$(BIN)/python benchmarks/tinytalk.py --quick
	$(BIN)/python benchmarks/newcomer.py --quick
	for name in ppo_speed generation_speed pairs_speed speed_growth; do $(BIN)/python benchmarks/$$name.py --quick; done
	# a browser is the annotator
	if command -v chromium >/dev/null; then $(BIN)/python benchmarks/studio_loop.py --quick; fi
	if [ -n "$(DATA)" ]; then
		$(BIN)/python benchmarks/sentiment.py --quick --data "$(DATA)"
		$(BIN)/python benchmarks/reward_real.py --quick --data "$(DATA)"
	fi

bench-speed: $(STAMP) ## speed beside TRL, hours on an idle machine (TRL112=PYTHON TRL116=PYTHON)
	if [ -z "$(TRL112)" ] || [ -z "$(TRL116)" ]; then
		echo "error: TRL112 and TRL116 name the interpreters of TRL's environments (PPO is in 1.12 and not in later ones)"
		echo "  fix: scripts/trl_environment.sh A 1.12; scripts/trl_environment.sh B 1.16"
		echo "       make bench-speed TRL112=A/bin/python TRL116=B/bin/python"
		exit 2
	fi
	# parts of it: --sizes S M, --works fixed eos, --trainers sft reward; each part has a result file of its own
	$(BIN)/python benchmarks/ppo_speed.py --trl-python "$(TRL112)"
	$(BIN)/python benchmarks/generation_speed.py
	$(BIN)/python benchmarks/pairs_speed.py --trl-python "$(TRL116)"
	$(BIN)/python benchmarks/speed_growth.py

clean: ## remove the demos and every cache (the virtual environment stays)
	rm -rf $(DEMO) $(STUDIO) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
