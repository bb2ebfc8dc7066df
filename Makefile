# Tailrace: what a person types. `make` alone explains itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.up-to-date
SEEDS ?= 500
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench simulate mutations lock clean

help: ## Show this list
	@echo "Tailrace: DynamoDB tables in your warehouse. Targets:"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with exactly requirements.lock and this project (a no-op when up to date)

demo: $(STAMP) ## Local AWS, two live tables and Dagster's UI [PORT=3000]; ONCE=1: prove equality and exit
	@$(BIN)/python -m sandbox.demo $(if $(filter-out 0,$(ONCE)),--once) $(if $(PORT),--port $(PORT))

test: $(STAMP) ## Run every test [ARGS="-k name"]
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder $(ARGS)

check: $(STAMP) ## What CI runs before the tests: lint, format, types, import directions, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_imports.py
	$(BIN)/tailrace generate --check --config tailrace.yaml

format: $(STAMP) ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure against the hand-written way, in the same run [ARGS=…]
	$(BIN)/python -m bench $(ARGS)

simulate: $(STAMP) ## Hunt for broken laws in a simulated world [SEEDS=500]
	TAILRACE_SEEDS=$(SEEDS) $(BIN)/python -m pytest tests/simulation $(ARGS)

mutations: $(STAMP) ## Break the code on purpose, and expect the tests to notice [ARGS="name"]
	$(BIN)/python -m tests.simulation.mutations $(ARGS)

lock: ## Resolve pyproject.toml anew into requirements.lock (needs uv)
	@{ sed -n '/^#/p' requirements.lock; \
	   uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	     --quiet --no-emit-index-url --no-annotate --no-header; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean: ## Remove caches and the demo's files; .venv and your warehouse stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .demo .dagster logs \
	  dbt_project/target dbt_project/logs dbt_project/.user.yml dist
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -print | xargs rm -rf

# uv where there is one, or the one that pip can fetch, or pip itself: the same pins each time.
# `--no-deps` because the lock is whole; hatchling is in it, so that the editable build of the
# project needs nothing else.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make setup: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or later is needed." >&2; \
	  echo "What to do: install one and name it: make setup PYTHON=python3.12" >&2; exit 2; }
	@set -e; \
	python="$$($(PYTHON) -c 'import sys; print(sys.executable)')"; \
	uv="$$(command -v uv || true)"; \
	again=""; \
	if [ -e $(VENV) ] && ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "make setup: $(VENV) is half made or broken: making it anew" >&2; \
	  rm -rf $(VENV); \
	elif [ -e $(VENV) ] && [ ! -e $@ ]; then \
	  echo "make setup: the last one did not end: installing all of it again" >&2; \
	  again=--force-reinstall; \
	fi; \
	rm -f $@; \
	if [ ! -x $(BIN)/python ]; then \
	  if [ -n "$$uv" ]; then "$$uv" venv --quiet --seed --python "$$python" $(VENV); \
	  else "$$python" -m venv $(VENV) || { \
	    echo "What to do: Debian and Ubuntu want apt-get install python3-venv first." >&2; exit 2; }; \
	  fi; \
	fi; \
	if [ -z "$$uv" ]; then \
	  [ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet uv || true; \
	  [ ! -x $(BIN)/uv ] || uv=$(BIN)/uv; \
	fi; \
	install() { \
	  if [ -n "$$uv" ] && "$$uv" pip install --quiet --python $(BIN)/python "$$@"; then return; fi; \
	  [ -z "$$uv" ] || echo "make setup: uv could not install, trying pip" >&2; \
	  $(BIN)/python -m pip install --quiet "$$@"; \
	}; \
	echo "Installing into $(VENV) (minutes the first time)"; \
	install $$again --no-deps -r requirements.lock; \
	install --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Ready: $(BIN)/tailrace --help"
