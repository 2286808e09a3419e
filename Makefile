# Everything a developer does, one word each. Nothing is needed beforehand but make, a python3 and the network.
# Steps whose result is there and fresh are skipped: a step leaves a stamp, and names what it was made from.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN    := .venv/bin
LOCK   := $(shell which flock 2>/dev/null)  # two makes at once take turns
VIEWER := $(shell find viewer \( -name node_modules -o -path viewer/dist -o -path viewer/tests \) -prune -o -type f -print)

.PHONY: help setup demo ohif clients viewer viewer-test test test-all lint format wheel test-wheel bench bench-index audit soak requirements clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------- to use it

setup: .venv/.demo  ## .venv with the multiframe command (PYTHON=3.13 for another Python than 3.12)

demo: .venv/.demo viewer  ## serve synthetic cines and the viewer (SIZE=2GB PORT=8080 DIR=folder)
	@exec $(BIN)/multiframe demo $(if $(SIZE),--size '$(SIZE)') $(if $(PORT),--port '$(PORT)') $(if $(DIR),--dir '$(DIR)')

viewer: viewer/dist/index.html  ## build the web viewer into viewer/dist

ohif:  ## bring a built OHIF into the user's cache folder, for multiframe serve --ohif
	@tools/ohif

wheel: viewer .venv/.demo  ## dist/*.whl, the viewer inside
	@rm -rf dist
	@tools/uv build --quiet --wheel --python $(BIN)/python --out-dir dist
	@ls dist/*.whl

# ---------------------------------------------------------------- to change it

clients: tests/clients/dist/cornerstone3d.html  ## bring the clients of others that tests/test_clients.py lets loose

# Three modules at a time, in the order they stand in, on two cores: half of what a test does is waiting for a process
# it has started.
# What somebody names is run in one process, where a debugger can be.
PYTEST := $(BIN)/pytest $(if $(ARGS),$(ARGS),-n 3 --dist loadfile --no-loadscope-reorder)

test: .venv/.dev  ## lint, then all tests but the long ones (ARGS= for pytest)
	@$(MAKE) -j3 lint viewer-test clients
	@CHROMIUM="$$(tools/chromium)" && OHIF="$$(tools/ohif)" && export CHROMIUM OHIF && exec $(PYTEST) -m 'not long'

test-all: .venv/.dev  ## the long ones and the wheel too
	@$(MAKE) -j3 lint viewer-test clients
	@$(MAKE) test-wheel
	@CHROMIUM="$$(tools/chromium)" && OHIF="$$(tools/ohif)" && export CHROMIUM OHIF && exec $(PYTEST)

test-wheel: wheel  ## install the wheel in an empty environment, without Node.js, and use it
	@tools/test-wheel dist/*.whl

viewer-test: viewer  ## the viewer's own tests, without a browser
	@tools/node tools/quietly npm --prefix viewer run --silent --if-present test
	@echo 'viewer: its tests pass'

lint: .venv/.dev  ## style, types, floors, spelling
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check
	@$(BIN)/mypy --no-error-summary
	@tools/quietly $(BIN)/lint-imports --no-cache
	@$(BIN)/typos
	@echo 'lint: clean'

format: .venv/.dev  ## rewrite the code in the one style
	@$(BIN)/ruff check --quiet --fix --exit-zero
	@$(BIN)/ruff format --quiet

bench: .venv/.dev viewer  ## measure (benchmarks/README.md says what)
	@exec $(BIN)/python -m benchmarks $(ARGS)

bench-index: .venv/.bench  ## measure finding frames, beside pydicom, highdicom, wsidicom
	@exec $(BIN)/python -m benchmarks index index-far $(ARGS)

audit:  ## compare every dependency with the advisories there are (needs a network that has them)
	@tools/audit

soak: .venv/.dev  ## an hour of mixed load: does anything grow? (MINUTES=15; build/soak.svg)
	@exec $(BIN)/python -m benchmarks.soak $(if $(MINUTES),--minutes $(MINUTES))

requirements:  ## pin what pyproject.toml asks for, anew
	@tools/requirements

clean:  ## remove all that make has made
	@rm -rf .venv .uv .node build dist viewer/dist viewer/node_modules tests/clients/dist tests/clients/node_modules
	@find . -name __pycache__ -prune -exec rm -rf {} +
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# ---------------------------------------------------------------- the steps

.venv/.demo: requirements-demo.txt pyproject.toml tools/setup
	@$(LOCK) tools/setup tools/setup requirements-demo.txt
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.demo
	@$(LOCK) tools/setup tools/setup requirements-dev.txt
	@touch $@

.venv/.bench: requirements-bench.txt .venv/.dev
	@$(LOCK) tools/setup tools/setup requirements-bench.txt
	@touch $@

viewer/node_modules/.ready: viewer/package.json viewer/package-lock.json
	@echo 'viewer: installing its packages' >&2
	@$(LOCK) tools/node tools/node tools/quietly npm --prefix viewer ci --no-audit --no-fund --loglevel=error
	@touch $@

viewer/dist/index.html: viewer/node_modules/.ready $(VIEWER)
	@echo 'viewer: building viewer/dist' >&2
	@$(LOCK) tools/node tools/node tools/quietly npm --prefix viewer run --silent build
	@touch $@

tests/clients/node_modules/.ready: tests/clients/package.json tests/clients/package-lock.json
	@echo 'clients: installing their packages' >&2
	@$(LOCK) tools/node tools/node tools/quietly npm --prefix tests/clients ci --no-audit --no-fund --loglevel=error
	@touch $@

tests/clients/dist/cornerstone3d.html: tests/clients/node_modules/.ready $(wildcard tests/clients/*.html tests/clients/*js)
	@$(LOCK) tools/node tools/node tools/quietly npm --prefix tests/clients run --silent build
	@touch $@
