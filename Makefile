# The front door. `make demo` and `make test` set everything up by themselves in .venv/ of this checkout.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
RUN := $(BIN)/python -m
ARGS ?=
# Most tests wait for sockets and timers, not for the processor: two at a time take half as long. A file stays with one worker.
WORKERS := -n logical --maxprocesses 4 --dist loadfile
UV_LOCK := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --no-emit-package hyperdht-py --no-emit-package ollaswarm --extra convert pyproject.toml

.PHONY: help setup setup-dev node demo run test check lint fmt types arch docs bench soak nat lock clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.runtime: requirements/runtime.lock pyproject.toml hyperdht-py/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "ollaswarm needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Install one (python.org, apt, brew, winget) and run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python has no venv module. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install -q --disable-pip-version-check --require-hashes -r requirements/runtime.lock
	$(RUN) pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e ./hyperdht-py -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.lock
	$(RUN) pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@

setup: $(VENV)/.runtime ## make .venv with what the program needs
setup-dev: $(VENV)/.dev ## make .venv with what developers need too

# The official JavaScript peers. Without Node the interop tests are skipped with a reason, and fail when CI=true.
node: setup-dev ## install the pinned npm packages the interop tests talk to
	@$(BIN)/python tests/interop/setup_node.py

demo: setup ## set up and run the main job end to end
	@$(BIN)/ollaswarm demo $(ARGS)

run: setup ## start the daemon in the foreground
	@$(BIN)/ollaswarm up $(ARGS)

test: setup-dev node ## set up and pass the tests
	$(RUN) pytest $(WORKERS) $(ARGS)

check: lint types arch test ## everything a change must pass

lint: setup-dev ## ruff and codespell
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(BIN)/codespell

fmt: setup-dev ## format the code
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

types: setup-dev ## mypy, strict
	$(RUN) mypy

arch: setup-dev ## import contracts
	$(BIN)/lint-imports

docs: setup-dev ## regenerate the generated parts of docs/
	$(BIN)/python -m sidecar.cli.reference docs/reference.md

bench: setup-dev node ## measure, interleaved, against what a user would do by hand
	$(BIN)/python bench/run.py $(ARGS)

soak: setup-dev ## long fuzz and fault runs
	$(RUN) pytest -m soak --timeout=0 -s $(ARGS)

nat: setup-dev node ## connect through every kind of NAT, in network namespaces (Linux, root, nftables)
	$(RUN) tests.natlab $(ARGS)

lock: setup-dev ## resolve the locked dependencies again
	$(RUN) pip install -q uv
	$(UV_LOCK) --group pyproject.toml:build -o requirements/runtime.lock
	$(UV_LOCK) --group pyproject.toml:dev -c requirements/runtime.lock -o requirements/dev.lock

clean: ## remove what set-up made
	rm -rf $(VENV) tests/interop/node_modules
