# Each target sets up what it needs. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ROOMS := edgefleet firmware_profiles converter fleet_server device_agent fleet_emulation
# An editable install is not compiled, and some environments forbid Python to do it later: every process would start slowly.
COMPILE := $(BIN)/python -m compileall -q $(ROOMS)
# Tests of whole fleets and rollouts use both cores by themselves; the others share them, and so do machines with one.
LIVE := tests/device_agent tests/docs tests/fleet_emulation tests/fleet_server
ONE_CORE := tests/fleet_emulation/linux_devices tests/fleet_emulation/power_loss

.DELETE_ON_ERROR:
.PHONY: help demo test check bench campaign docs package clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

.make/venv:
	@mkdir -p .make
	@PYTHON=$(PYTHON) scripts/install-system-packages demo
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "EdgeFleet needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet 'pip>=25.1'
	@touch $@

.make/demo: .make/venv pyproject.toml
	$(PIP) install --quiet --editable '.[demo]'
	@touch $@

.make/dev: .make/demo pyproject.toml
	$(PIP) install --quiet --editable '.[demo]' --group dev
	@touch $@

.make/system:
	@mkdir -p .make
	@PYTHON=$(PYTHON) scripts/install-system-packages test
	@touch $@

# Boards with tflite-runtime 2.14: where the environment cannot be made, the tests that need it say so and are skipped.
.make/tflite-runtime: scripts/make-tflite-runtime-environment
	@mkdir -p .make
	@PYTHON=$(PYTHON) scripts/make-tflite-runtime-environment || true
	@touch $@

demo: .make/demo ## the whole loop on this machine: convert, approve, roll out, four failures, four defenders
	@$(COMPILE)
	$(BIN)/edgefleet demo --once

test: .make/dev .make/system .make/tflite-runtime ## all tests
	@$(COMPILE)
	$(BIN)/python -m pytest -m "not wheel" --numprocesses 2 --dist loadfile $(filter-out $(LIVE),$(wildcard tests/*)) $(ONE_CORE) $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m "not wheel" $(LIVE) $(ONE_CORE:%=--ignore=%) $(PYTEST_ARGS)

check: .make/dev .make/system ## format, lint, types, import walls, docs, and the wheel with one extra at a time
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m wheel $(PYTEST_ARGS)

bench: .make/dev .make/tflite-runtime ## benchmarks against named baselines; results in benchmarks/results/
	$(BIN)/python -m benchmarks

campaign: .make/dev .make/system .make/tflite-runtime ## the long runs that CI has no time for; results in benchmarks/results/
	$(BIN)/python -m benchmarks --campaign

docs: .make/dev ## check that every documented command and link is true
	$(BIN)/python -m pytest tests/docs

package: .make/dev ## build wheels, the source distribution and the devices' Debian packages into dist/
	$(BIN)/python -m build --outdir dist .
	@command -v dpkg-deb >/dev/null || echo "dpkg-deb is not installed: no Debian packages"
	@! command -v dpkg-deb >/dev/null || $(BIN)/python scripts/build_device_package.py --out dist

clean: ## remove everything that the other targets made
	rm -rf $(VENV) .venv-tflite-runtime .make build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
