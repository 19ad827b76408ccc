# Everything a newcomer needs: `make demo`, `make test`. Everything CI does: `make check test demo`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch serves the default, the tests and CI. TORCH= with your own index for another build.
TORCH ?= torch==2.13.0
EXTRAS ?= embedded,worker,production,cpu,dev
PHOTOS ?=
TEMPLATE ?=
OUT ?= demo-out
N ?= 1000000
SEED ?= 1
HOURS ?=

.PHONY: help install demo chat test check format fuzz load chaos audit learning-test clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed  ## virtual environment with everything

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q $(TORCH) -e '.[$(EXTRAS)]'
	touch $@

demo: install  ## selfies to a portrait, for real, on this machine (PHOTOS=folder TEMPLATE=name-or-file OUT=folder)
	$(BIN)/python -m bot demo $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(TEMPLATE),--template "$(TEMPLATE)") --out "$(OUT)"

chat: install  ## the same for a person: a chat page on 127.0.0.1
	$(BIN)/python -m bot chat

test: install  ## all tests
	$(BIN)/python -m pytest -q

chaos: install  ## everything killed, paused and cut off at random while people use it (SEED=n HOURS=h; 10 minutes)
	$(BIN)/python -m tests.chaos --seed $(SEED) $(if $(HOURS),--hours $(HOURS))

check: install  ## formatting, lint, types, import rules, secrets and unsafe code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit/test_security.py

format: install  ## put the code into the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: install  ## feeds a million broken inputs to everything that strangers reach (N=… SEED=…)
	$(BIN)/python -m tests.fuzz --inputs $(N) --seed $(SEED)

load: install  ## 200 people on one bot, and the queue in a database of a million jobs: prints tables
	$(BIN)/python -m tests.load

audit: install  ## known holes in the installed packages; asks the advisory database, so it needs the network
	$(BIN)/python -m pip install --disable-pip-version-check -q 'pip-audit>=2.9,<3'
	$(BIN)/pip-audit --skip-editable

learning-test: install  ## does the method learn? likeness, merge, control and inpainting, measured on the small model
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m engine.mini.learning_test

clean:  ## remove what the commands above made
	rm -rf $(VENV) demo-out data
