# The README's commands. Everything lives in a project-local .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export HF_HUB_OFFLINE := 1

.PHONY: setup demo bench test lint format types lock clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

demo: setup
	$(BIN)/cbir-ops demo

bench: setup
	$(BIN)/python -m benchmarks

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check cbir flows tests benchmarks
	$(BIN)/ruff format --check cbir flows tests benchmarks

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix cbir flows tests benchmarks
	$(BIN)/ruff format cbir flows tests benchmarks

lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra demo --extra dev --universal --generate-hashes \
	    --no-header --no-emit-index-url --quiet --upgrade --output-file requirements.lock

clean:
	rm -rf $(VENV)
