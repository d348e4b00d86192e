# The README's commands. Everything lives in a project-local .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export HF_HUB_OFFLINE := 1

.PHONY: setup demo test lint format types lock clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

demo: setup
	$(BIN)/cbir-ops demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check cbir flows tests
	$(BIN)/ruff format --check cbir flows tests

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix cbir flows tests
	$(BIN)/ruff format cbir flows tests

lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra demo --extra dev --universal --generate-hashes \
	    --no-header --no-emit-index-url --quiet --upgrade --output-file requirements.lock

clean:
	rm -rf $(VENV)
