# Two targets matter: `make demo` and `make test`. Each sets itself up in .venv first.
PYTHON ?= python3
OUT ?= demo-output
DATA ?=
BEHAVIORS ?=
# Not from the environment, where terminals keep their width under this name.
COLUMNS :=
unexport COLUMNS

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
PINS := pyproject.toml ci-constraints.txt
# mypy refuses a folder without Python files.
TYPED := src tests website $(if $(wildcard benchmarks/*.py),benchmarks)
# Imports triton, which comes with torch's CUDA builds alone; it has no examples.
CUDA_ALONE := --ignore=src/funnelrec/graph/triton_product.py
# More threads than idle cores make small matrix products slower, not faster.
TEST_ENV := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test venv lint typecheck doctest pytest docs wheel reproduce clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed-demo ## Run the main job on a simulated shop, or on DATA=path [BEHAVIORS=view,cart,purchase] [COLUMNS=user_id=uid] [OUT=folder].
	@$(BIN)/funnelrec demo --out "$(OUT)" $(if $(DATA),--data "$(DATA)") $(if $(BEHAVIORS),--behaviors "$(BEHAVIORS)") $(if $(COLUMNS),--columns "$(COLUMNS)")

test: lint typecheck doctest pytest ## Linter, type check, doctests and tests: what CI runs.

venv: $(VENV)/.installed-test ## Create .venv with everything for development.

lint: $(VENV)/.installed-test ## Linter and formatter, changing nothing.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.installed-test ## mypy --strict.
	$(BIN)/mypy --strict $(TYPED)

doctest: $(VENV)/.installed-test ## Run the examples in the docstrings.
	$(TEST_ENV) $(BIN)/python -m pytest -q --doctest-modules src $(CUDA_ALONE)

pytest: $(VENV)/.installed-test ## Run the test-suite.
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 tests

docs: $(VENV)/.installed-test ## Build the documentation into site/; a warning is an error.
	@NO_MKDOCS_2_WARNING=1 $(TEST_ENV) $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open site/index.html; it needs no network and no server."

wheel: ## Build the wheel, install it into an empty environment in build/ and test it there.
	rm -rf dist build/wheel
	@$(PYTHON) -m venv build/wheel
	@build/wheel/bin/python -m pip --disable-pip-version-check -q wheel --no-deps -w dist .
	@build/wheel/bin/python -m pip --disable-pip-version-check -q install -c ci-constraints.txt torch
	@build/wheel/bin/python -m pip --disable-pip-version-check -q install -c ci-constraints.txt dist/*.whl
	@$(TEST_ENV) build/wheel/bin/python -I tests/check_wheel.py

reproduce: $(VENV)/.installed-test ## Train everything in docs/reproduction.md again (hours; FUNNELREC_DATA=folder; resumes).
	$(TEST_ENV) $(BIN)/python benchmarks/reproduction.py search
	$(TEST_ENV) $(BIN)/python benchmarks/reproduction.py run
	$(BIN)/python benchmarks/reproduction.py table
	$(BIN)/python benchmarks/summary.py

clean: ## Remove .venv, caches and the demo's output.
	rm -rf $(VENV) demo-output build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "funnelrec needs Python 3.11 or newer; name one with: make PYTHON=python3.12 demo" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
	@touch $@

# torch comes first and pinned, or pip would fetch a build with several gigabytes of CUDA packages.
$(VENV)/.installed-torch: ci-constraints.txt | $(VENV)/.created
	@echo "Installing torch into $(VENV) (once) ..."
	@$(PIP) install -c ci-constraints.txt torch
	@touch $@

$(VENV)/.installed-demo: $(PINS) $(VENV)/.installed-torch
	@echo "Installing funnelrec into $(VENV) (once) ..."
	@$(PIP) install -c ci-constraints.txt -e '.[plots]'
	@touch $@

$(VENV)/.installed-test: $(PINS) $(VENV)/.installed-torch
	@echo "Installing funnelrec and its development tools into $(VENV) (once) ..."
	@$(PIP) install -c ci-constraints.txt -e '.[dev]'
	@touch $@
