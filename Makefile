# Two commands do everything: `make serve` and `make test`. Both set up what they need in .venv and are quick again.

PYTHON ?= python3
BIN := .venv/bin
SERVE_ARGS ?=

.PHONY: serve test check bench train format clean

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit("deepserve needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 serve") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	@touch $@

# One stamp per set of packages, made anew when the dependencies change.
.venv/.serve: .venv/.created pyproject.toml
	@echo "Setting up .venv; the first time this downloads PyTorch."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[reference]'
	@touch $@

.venv/.dev: .venv/.created pyproject.toml
	@echo "Setting up .venv with everything the tests need."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.serve

serve: .venv/.serve
	$(BIN)/deepserve serve $(SERVE_ARGS)

test: .venv/.dev
	$(BIN)/python -m pytest

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev
	$(BIN)/python -m bench

train: .venv/.dev
	$(BIN)/python -m training.train

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
