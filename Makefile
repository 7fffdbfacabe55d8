# `make demo` and `make test` work on a fresh machine (Python 3.11 or newer, pip): they set up .venv by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The version that was tested.  On Linux the package index serves the CUDA build of it; any torch >= 2.11 will do: make TORCH=torch ...
TORCH ?= torch==2.13.0
OUTPUT ?= outputs/forget_concept
# Small models run fastest with one thread a test worker, and with all cores in a single job.
WORKERS ?= 2
DEMO_THREADS ?= $(shell getconf _NPROCESSORS_ONLN)
PYTEST_ARGS ?=
# One process on whatever device there is.  For others: make demo LAUNCH_ARGS="--config_file recipes/accelerate/ddp.yaml"
LAUNCH_ARGS ?= --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
LAUNCH = OMP_NUM_THREADS=$(DEMO_THREADS) $(BIN)/accelerate launch --quiet $(LAUNCH_ARGS)

export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup demo test test-slow quality style sandbox table clean
help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

$(VENV)/.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

setup: $(VENV)/.stamp  ## make the virtual environment (the others do it by themselves)

demo: $(VENV)/.stamp   ## forget a concept in the embedded sandbox; OUTPUT=folder
	HF_HUB_OFFLINE=1 $(LAUNCH) recipes/forget_concept.py --output $(OUTPUT)

test: $(VENV)/.stamp   ## the tests, without the slow ones; PYTEST_ARGS="-k name", WORKERS=number
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-slow: $(VENV)/.stamp  ## the slow tests alone
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not gpu and not network" --timeout 1800 $(PYTEST_ARGS)

quality: $(VENV)/.stamp    ## lint, format and types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(VENV)/.stamp      ## put lint and format right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sandbox: $(VENV)/.stamp    ## train the sandbox's two shipped models again
	$(LAUNCH) recipes/train_target.py --config recipes/sandbox_target.yaml
	$(BIN)/python -m llm_unlearn.sandbox.models outputs/sandbox

table: $(VENV)/.stamp      ## every method on the sandbox, three seeds: the README's table
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python eval/table.py --jobs $(WORKERS)

clean:                     ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
