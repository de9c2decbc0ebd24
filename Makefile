# Everything runs in .venv, which is made on the first call and checked in milliseconds after it.
PYTHON ?= python3
BIN := .venv/bin
# Stages call `python`: the environment's own must come first, activated or not.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A hundred processes start here: without its cache Python would compile all that they import in each.
export PYTHONDONTWRITEBYTECODE :=
# An environment has the path of its project inside: one that was moved or copied would run the other's code.
made_in := $(shell [ -L .venv ] || cat .venv/.installed 2>/dev/null)
ifneq ($(made_in),)
ifneq ($(made_in),$(CURDIR))
$(info .venv was made in $(made_in): it is made anew)
$(shell rm -rf .venv)
endif
endif
.DEFAULT_GOAL := help
.PHONY: help setup repro pull ideas test lint smoke ui play serve server extras torture sweep walk services screenshots published-long gpu wheels

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

repro: setup  ## run the pipeline on all cores (about ten minutes on two, seconds if nothing changed)
	@charlm repro

pull: setup  ## models and results without training, from a DVC remote (REMOTE=https://…, s3://… or a folder)
	@charlm pull

ideas: setup  ## measure what each idea gains (an hour on two cores; IDEAS="residual_8 muon_lstm" SEEDS=3 JOBS=2 SCALE=smoke)
	@charlm repro encode
	@charlm ideas $(IDEAS) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS)) $(if $(SCALE),--scale $(SCALE))

test: setup  ## run the tests (without what `torture` and `services` add)
	@python -m pytest

lint: setup  ## check style, types and the direction of imports
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-cache

smoke: setup  ## run the whole graph at scale smoke, in a copy (.smoke)
	@python -m tests.workspace .smoke

torture: setup  ## kill trainings at random, compare every byte; thousands of bad params.yaml (an hour)
	@python -m tools.torture
	@python -m pytest -q --torture -n 0 tests/robustness tests/pipeline/test_changes.py

sweep: setup  ## 24 experiments by four workers over one MLflow database: none lost, none doubled? (12 minutes)
	@python -m tools.sweep

walk: setup  ## run every command of the documents in copies, as a newcomer would (20 minutes)
	@python -m tools.walk

serve: setup  ## write text over HTTP on http://127.0.0.1:5001 (MODEL=lstm PORT=5001)
	@charlm serve $(if $(MODEL),--model $(MODEL)) $(if $(PORT),--port $(PORT))

server: .venv/.services  ## a team's MLflow server; DATABASE and ARTIFACTS say where, NAME how it is called (docs/tracking.md)
	@charlm server --host $(or $(LISTEN),127.0.0.1) --port $(or $(PORT),5000) $(if $(NAME),--name $(NAME))

services: .venv/.services  ## tests with PostgreSQL, an S3 server, MLflow's and Chromium (5 minutes)
	@python -m pytest -n 0 --services tests/services tests/pipeline/test_serving.py --ignore tests/services/test_playground_page.py
	@python -m pytest -n 0 --services tests/services/test_playground_page.py  # a browser of its own

screenshots: .venv/.services  ## pictures of the report and of MLflow's pages, into .screenshots
	@python -m tools.screenshots .screenshots

extras: .venv/.services  ## install what S3, PostgreSQL and the tests of make services need

.venv/.services: requirements-services.lock .venv/.installed
	@sh tools/install.sh -r requirements-services.lock
	@touch $@

published-long: setup  ## the published runs that take hours, those not recorded yet
	@charlm check
	@dvc repro --quiet encode
	@python -m benchmarks.published

gpu:  ## all figures that need a GPU, for MINUTES=9.5; again until all is recorded (docs/gpu.md)
	@if [ -d wheels ] && [ ! -f .venv/.installed ]; then \
	  $(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target wheels/installed wheels/*.whl && \
	  PYTHONPATH=wheels/installed:$$PYTHONPATH $(PYTHON) -m benchmarks.on_gpu $(if $(MINUTES),--minutes $(MINUTES)); \
	else $(MAKE) --quiet setup && charlm repro encode && python -m benchmarks.on_gpu $(if $(MINUTES),--minutes $(MINUTES)); fi

wheels:  ## what `make gpu` needs beside torch, for a machine without network (FOR=3.12, its Python)
	@$(PYTHON) -m pip download --quiet --no-deps --only-binary :all: --dest wheels \
	  $(if $(FOR),--python-version $(FOR) --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64) \
	  $$(grep -E '^(annotated-types|click|filelock|numpy|psutil|pydantic|pydantic_core|ruamel.yaml|safetensors|scipy|tqdm|typing-inspection|typing_extensions)==' requirements.lock)
	@ls wheels

ui: setup  ## open MLflow's pages on http://127.0.0.1:5000
	@charlm ui $(if $(PORT),--port $(PORT))

play: setup  ## all models in one page that needs no server: reports/playground.html
	@charlm play

setup: .venv/.installed  ## make .venv and install everything (the others call this)
	@git rev-parse --git-dir >/dev/null 2>&1 || [ -f .dvc/config.local ] || { \
	  echo "no git repository here: DVC works without one (.dvc/config.local)" >&2; \
	  printf '[core]\n    no_scm = true\n' > .dvc/config.local; }

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11))' 2>/dev/null || { \
	  echo "charlm needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1 || true). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into .venv (once; half a minute, or minutes for torch's CUDA build)"
	@$(PYTHON) -m venv .venv
	@sh tools/install.sh -r requirements.lock
	@sh tools/install.sh --no-deps --no-build-isolation --editable .
	@echo "$(CURDIR)" > $@
