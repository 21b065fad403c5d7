# setup    the virtual environment, from constraints.txt
# train    make train ENV=ant-dir [ALGO=maml-trpo] [ARGS="--seed 1"]
# test     all tests; make test ARGS="-k config" for some
# check    formatting, lint, types
# bench    the measurements behind the README

PYTHON ?= python3
ALGO ?= maml-trpo
ARGS ?=

BIN := .venv/bin
STAMP := .venv/stamp

.PHONY: setup train test check bench
.DEFAULT_GOAL := setup

setup: $(STAMP)

# pip and not uv: a newcomer has it. The constraints apply to every call, since a bare range of torch
# brings gigabytes of GPU libraries.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

train: $(STAMP)
	@test -n "$(ENV)" || { echo 'name an environment: make train ENV=ant-dir' >&2; exit 2; }
	$(BIN)/python train.py --env $(ENV) --algo $(ALGO) $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check

bench: $(STAMP)
	$(BIN)/python -m benchmarks.collect $(ARGS)
	$(BIN)/python -m benchmarks.update $(ARGS)
	$(BIN)/python -m benchmarks.terrain $(ARGS)
