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

# TOFU=folder with TOFU's JSON lines; LLM_UNLEARN_DATA/tofu without it.
TOFU ?= $(LLM_UNLEARN_DATA)/tofu
TOFU_METHODS ?= npo nabla_tau concept_poison

.PHONY: help setup demo test test-slow quality style help-texts docs sandbox table tofu tofu-whole clean
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

help-texts: $(VENV)/.stamp ## write what llm-unlearn COMMAND --help prints anew, after a change of options
	$(BIN)/python -m llm_unlearn.command_line.help_texts

docs: $(VENV)/.stamp       ## write the tables of methods, figures and papers in the docs anew, after a change of their files
	$(BIN)/python -m llm_unlearn.command_line.catalogue

sandbox: $(VENV)/.stamp    ## train the sandbox's shipped models again
	$(LAUNCH) recipes/train_target.py --config recipes/sandbox_target.yaml
	$(BIN)/python -m llm_unlearn.sandbox.models outputs/sandbox
	$(LAUNCH) recipes/train_target.py --config recipes/pictures_target.yaml
	$(BIN)/python -m llm_unlearn.sandbox.pictures outputs/pictures
	$(BIN)/python -m llm_unlearn.sandbox.texts

table: $(VENV)/.stamp      ## every method on the sandbox, three seeds: the README's table
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python eval/table.py --jobs $(WORKERS)

tofu: $(VENV)/.stamp       ## TOFU's forget10 in a small model of 50 authors, beside gold; TOFU=folder
	$(BIN)/python recipes/tofu.py --data "$(TOFU)" --output outputs/tofu/data
	$(LAUNCH) recipes/train_target.py --config recipes/tofu_target.yaml
	$(BIN)/python eval/table.py --config recipes/tofu_forget10.yaml --methods $(TOFU_METHODS) --seeds 0 --output outputs/tofu/table

# The same on all 200 authors: 3,600 rows in training instead of 1,000, so hours on a CPU.
tofu-whole: $(VENV)/.stamp ## the same with all of TOFU's 200 authors
	mkdir -p outputs/tofu_whole
	$(BIN)/python recipes/tofu.py --data "$(TOFU)" --output outputs/tofu_whole/data --whole
	for recipe in target forget10; do sed 's#outputs/tofu#outputs/tofu_whole#' recipes/tofu_$$recipe.yaml > outputs/tofu_whole/$$recipe.yaml; done
	$(LAUNCH) recipes/train_target.py --config outputs/tofu_whole/target.yaml
	$(BIN)/python eval/table.py --config outputs/tofu_whole/forget10.yaml --methods $(TOFU_METHODS) --seeds 0 --output outputs/tofu_whole/table

clean:                     ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
