# Two commands do everything: `make serve` and `make test`. Both set up what they need in .venv and are quick again.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SERVE_ARGS ?=

# What the native core is made of; the folder itself changes when a file comes or goes.
CORE := CMakeLists.txt csrc $(wildcard csrc/*)
CXX_COMPILERS := $(strip $(foreach name,$(CXX) c++ g++ clang++,$(shell command -v $(name))))
CORE_PLAN := $(if $(CXX_COMPILERS),and the native core is compiled,without the native core: no C++ compiler is here)

.PHONY: serve test check sanitize bench train train-full export-models eval format clean

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit("deepserve needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 serve") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	@touch $@

# One stamp per set of packages, made anew when the dependencies or the native core change.
.venv/.serve: .venv/.created pyproject.toml $(CORE)
	@echo "Setting up .venv: a few packages, $(CORE_PLAN)."
	@$(PIP) install --editable .
	@$(BIN)/python -m deepserve.engine.native || { \
	  echo "Setting up the PyTorch reference engine instead; the first time this downloads PyTorch."; \
	  $(PIP) install --editable '.[reference]'; }
	@touch $@

# With a compiler at hand, a core that cannot be built is an error here and not a reason to go without it.
REQUIRE_CORE := DEEPSERVE_REQUIRE_CORE=$(if $(CXX_COMPILERS),1,0)

.venv/.dev: .venv/.created pyproject.toml
	@echo "Setting up .venv with everything the tests need."
	@$(REQUIRE_CORE) $(PIP) install --editable '.[dev]'
	@touch $@ .venv/.serve

# Compiles what changed in csrc/, without asking for any package.
.venv/.core: $(CORE) | .venv/.dev
	@$(REQUIRE_CORE) $(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ .venv/.serve

serve: .venv/.serve
	$(BIN)/deepserve serve $(SERVE_ARGS)

# The JavaScript SDKs that tests/clients runs; without node those tests are skipped, and fail where CI is set.
JS_CLIENTS := tests/clients/js
$(JS_CLIENTS)/node_modules/.installed: $(JS_CLIENTS)/package.json $(JS_CLIENTS)/package-lock.json
	@if ! { command -v node && command -v npm; } >/dev/null; then \
	  echo "No node and npm here: the tests of the JavaScript SDKs will be skipped."; \
	elif npm ci --prefix $(JS_CLIENTS) --ignore-scripts --no-audit --no-fund --loglevel=error; then \
	  touch $@; \
	else \
	  echo "npm could not install the JavaScript SDKs: their tests will be skipped."; \
	fi

# instructor needs older releases than the other clients, so it has an environment of its own.
INSTRUCTOR := tests/clients/instructor
$(INSTRUCTOR)/.venv/.installed: $(INSTRUCTOR)/requirements.txt | .venv/.created
	@if $(BIN)/python -m venv $(@D) && $(@D)/bin/python -m pip --quiet --disable-pip-version-check install -r $<; then \
	  touch $@; \
	else \
	  echo "instructor could not be installed: its test will be skipped."; \
	fi

# Runware's newest SDK has the same import name as the one before it, so it has an environment of its own, too.
RUNWARE := tests/clients/runware_sdk
$(RUNWARE)/.venv/.installed: $(RUNWARE)/requirements.txt | .venv/.created
	@if $(BIN)/python -m venv $(@D) && $(@D)/bin/python -m pip --quiet --disable-pip-version-check install -r $<; then \
	  touch $@; \
	else \
	  echo "runware-sdk could not be installed: its test will be skipped."; \
	fi

OWN_ENVIRONMENTS := $(INSTRUCTOR)/.venv/.installed $(RUNWARE)/.venv/.installed

test: .venv/.dev .venv/.core $(JS_CLIENTS)/node_modules/.installed $(OWN_ENVIRONMENTS)
	$(BIN)/python -m pytest

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@echo "$(BIN)/clang-format --dry-run --Werror csrc/*"
	@$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*.h csrc/*.cpp csrc/*.inl)
	$(BIN)/cmake -S . -B build/check -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DDEEPSERVE_WARNINGS_AS_ERRORS=ON >/dev/null
	$(BIN)/cmake --build build/check

# The native core's tests again, with every access to memory and every undefined operation checked.
sanitize: .venv/.dev
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCMAKE_BUILD_TYPE=Debug \
	  -DDEEPSERVE_SANITIZE=address,undefined >/dev/null
	$(BIN)/cmake --build build/sanitize
	DEEPSERVE_CORE=build/sanitize/_core.so ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	  $(BIN)/python -m pytest tests/engine/native

bench: .venv/.dev .venv/.core
	$(BIN)/python -m bench

# A small model in minutes, to see that everything works: trained, exported, asked a sample of the questions.
TRAIN_MINUTES ?= 5
SMALL := training/runs/small/model
train: .venv/.dev .venv/.core
	$(BIN)/python -m training.train --run small --minutes $(TRAIN_MINUTES)
	$(BIN)/python -m training.export --run small --out $(SMALL)
	$(BIN)/python -m training.eval --model $(SMALL) --run small --quick --unrecorded

# Both models as they ship, which takes hours; what was interrupted goes on where it was.
train-full: .venv/.dev .venv/.core
	$(BIN)/python -m training.train --run mini-flash --shape mini-flash --continue-from training/started/mini-flash
	$(BIN)/python -m training.export --run mini-flash --out src/deepserve/models/mini-flash
	$(BIN)/python -m training.train --run mini-pro --shape mini-pro --grow-from training/started/mini-pro --minutes 66
	$(MAKE) export-models eval

export-models: .venv/.dev .venv/.core
	$(BIN)/python -m training.export --run mini-flash --out src/deepserve/models/mini-flash
	$(BIN)/python -m training.export --run mini-pro --out src/deepserve/models/mini-pro

EVAL_ARGS ?=
eval: .venv/.dev .venv/.core
	$(BIN)/python -m training.eval $(EVAL_ARGS)
	$(BIN)/python -m training.card
	$(BIN)/python -m training.tour

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(wildcard csrc/*.h csrc/*.cpp csrc/*.inl)

clean:
	rm -rf .venv $(JS_CLIENTS)/node_modules build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
