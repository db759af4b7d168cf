# `make demo` and `make test` are all that a fresh machine with Python 3.11+ and git needs.
PYTHON ?= python3
VENV := .venv
FAULTS ?= tests/faults
INTEGRATION ?= tests/integration
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: help install demo test test-integration test-faults test-gpu stack stack-down check bench lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP) ## install everything into .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "$(PYTHON) is not Python 3.11 to 3.13; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@test -x $(VENV)/uv/bin/uv || { $(PYTHON) -m venv $(VENV)/uv && \
	  $(VENV)/uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'; }
	$(VENV)/uv/bin/uv pip sync --quiet --python $(VENV)/bin/python --require-hashes requirements.lock
	$(VENV)/uv/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: install ## the whole pipeline on synthetic images: prepare, sweep, select, report
	dvc repro
	@echo "model:  models/phantom/    card: models/phantom/card.md"
	@echo "report: reports/index.html"

test: install ## the tests, on two cores
	python -m pytest --numprocesses 2 --dist worksteal

test-integration: install ## what needs the services: make stack first
	python -m pytest $(INTEGRATION)

test-faults: install ## faults injected into sweeps, one at a time: make stack first
	python -m pytest --durations=0 --durations-min=1 $(FAULTS)

test-gpu: install ## what needs an NVIDIA GPU
	python -m pytest tests/gpu

stack: install ## PostgreSQL, Prefect, S3, Ray and a worker on 127.0.0.1, without Docker
	python -m infra.stack up

stack-down: install ## end them
	python -m infra.stack down

check: install ## lint, format, types, and known vulnerabilities of what is pinned
	ruff check .
	ruff format --check .
	mypy
	python -m infra.audit

bench: install ## what training, keeping, waiting and predicting cost here, in less than 20 minutes
	python -m benchmarks.loop
	python -m benchmarks.loop --layouts
	python -m benchmarks.frozen
	python -m benchmarks.memory
	python -m benchmarks.overhead
	@if test -d models/phantom; then python -m benchmarks.latency models/phantom; \
	  else echo "benchmarks.latency needs a model: make demo"; fi

lock: install ## resolve requirements.lock anew
	$(VENV)/uv/bin/uv pip compile pyproject.toml --extra dev --extra ray --universal --generate-hashes --no-header \
	  --no-annotate --python-version 3.11 --quiet --output-file requirements.lock

clean: ## remove what the pipeline has made, but neither .venv nor DVC's cache
	rm -rf data/packed runs results models reports logs
