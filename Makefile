# Every target bootstraps what it needs: Python 3.11 or newer and make are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# One process more than cores: tests wait for servers and for each other.
JOBS   ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
SEEDS  ?= 20000
EXAMPLES ?= 500
MINUTES ?= 2
PROJECT ?=
DATASET ?=
DATABASE ?= (default)
OLDEST_POSTGRES ?= $(firstword $(sort $(wildcard /usr/lib/postgresql/*/bin)))

.DEFAULT_GOAL := help
.PHONY: help install demo incident platform season test test-ui test-postgresql-oldest test-gcp check format bench simulate chaos load coverage clean serve fuzz

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 34

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("onerow needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP)  ## the environment in .venv, with the command .venv/bin/onerow

demo: $(STAMP)  ## the incident on this machine: plain MERGE duplicates, onerow does not
	@$(BIN)/python -m demo.incident

incident: $(STAMP)  ## the night of the incident on the original design and on the app of apps/nba_props, side by side
	@PYTHONPATH=apps/nba_props $(BIN)/python -m incident

platform: $(STAMP)  ## the app of apps/nba_props on this machine: workers, coordinator, overlapping runs, grading; make platform SERVE=1 for its page
	@PYTHONPATH=apps/nba_props $(BIN)/python -m predictions.platform $(if $(SERVE),--serve)

season: $(STAMP)  ## a whole season through the app twice, overlapping, processes killed, then a reconciliation (4 to 8 minutes)
	@PYTHONPATH=apps/nba_props $(BIN)/python -m predictions.backfill --project-id apps/nba_props/run/season --fresh --runs 2 --processes 3 --lease 10 --kills 4 --kill-every 45

serve: $(STAMP)  ## coordinator, worker, monitor and page on this machine, with sample data that keeps coming
	@$(BIN)/python -m demo.serve

test: $(STAMP)  ## all tests
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

test-ui: $(STAMP)  ## the page in a real Chromium, with pictures in tests/ui/screenshots
	@./tests/ui/chromium
	@$(BIN)/python -m pytest -n 2 --dist loadfile -q tests/ui

test-postgresql-oldest: $(STAMP)  ## the PostgreSQL suites against the oldest server of this machine (OLDEST_POSTGRES=its bin folder)
	@test -x "$(OLDEST_POSTGRES)/postgres" || { echo "There is no PostgreSQL server in /usr/lib/postgresql; set OLDEST_POSTGRES to the folder of its programs." >&2; exit 1; }
	@echo "PostgreSQL suites against $$($(OLDEST_POSTGRES)/postgres --version)"
	@ONEROW_TEST_POSTGRES_BIN=$(OLDEST_POSTGRES) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q tests/postgresql tests/conformance -k "postgresql and not ducklake"

test-gcp: $(STAMP)  ## the suites against the real services: make test-gcp PROJECT=p [DATASET=d for BigQuery] [DATABASE=... for Firestore]
	@test -n "$(PROJECT)" || { echo "Name your project: make test-gcp PROJECT=p DATASET=d. It costs some cents; see docs/how-to/firestore.md." >&2; exit 1; }
	@ONEROW_TEST_FIRESTORE="$(PROJECT)/$(DATABASE)" $(BIN)/python -m pytest -n 4 -q tests/conformance/test_lockstore.py tests/firestore/test_firestore_either.py -k "firestore"
	@test -z "$(DATASET)" || ONEROW_TEST_BIGQUERY="$(PROJECT)/$(DATASET)" $(BIN)/python -m pytest -n 4 -q tests/conformance -k "bigquery"

check: $(STAMP)  ## formatter, linter, types, import contracts, dependencies
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry src

format: $(STAMP)  ## let the linter mend what it can
	@$(BIN)/ruff check --fix .

bench: $(STAMP)  ## ratios to the bare engines, medians of paired runs, and a plot (about an hour)
	@$(BIN)/python -m benchmarks.duckdb_merge
	@$(BIN)/python -m benchmarks.engines postgresql
	@$(BIN)/python -m benchmarks.engines ducklake
	@$(BIN)/python -m benchmarks.postgresql
	@$(BIN)/python -m benchmarks.embedded
	@$(BIN)/python -m benchmarks.worker
	@$(BIN)/python -m benchmarks.plot

fuzz: $(STAMP)  ## many requests made from the services' own descriptions, with a new seed each time: make fuzz EXAMPLES=2000
	@ONEROW_FUZZ_SEED=0 ONEROW_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q tests/http/test_fuzz.py

simulate: $(STAMP)  ## the simulation over many seeds: make simulate SEEDS=20000
	@$(BIN)/python -m onerow.testing.simulate --explore
	@$(BIN)/python -m onerow.testing.simulate --seeds $(SEEDS)

chaos: $(STAMP)  ## the torture test on every engine: make chaos MINUTES=2
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.chaos --minutes $(MINUTES)

load: $(STAMP)  ## the services under load on PostgreSQL, a coordinator killed every minute: make load MINUTES=10
	@$(BIN)/python -m benchmarks.load --minutes $(MINUTES)

clean:  ## remove the environment and what tests and demo left behind
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache demo/run build dist
