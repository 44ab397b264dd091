# Works with GNU make 3.81 and newer, Python 3.11 and newer, and a package index; nothing else.

VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
TESTS ?= tests/unit tests/property tests/integration tests/training tests/kafka tests/chaos
CHAOS ?= --seeds 1,2,3,4,5 --records 20000 --faults 25

# For machines that differ: see the head of requirements/install.sh.
export PYTHON INDEX_URL TORCH_INDEX CPU_ONLY

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench kafka chaos lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything that is needed, in the locked versions (CPU_ONLY=1: 1.4 GB less)

$(READY): requirements/dev.txt requirements/uv.txt requirements/install.sh pyproject.toml
	@requirements/install.sh $(VENV)
	@touch $@

demo: $(READY) ## real sequences in, predictions out, on an embedded broker: no Docker, no GPU
	@$(BIN)/virnucpro demo

test: $(READY) ## run all tests (TESTS=tests/unit for some)
	$(BIN)/pytest $(TESTS)

lint: $(READY) ## check style, types, which package imports which, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

bench: $(READY) ## measure this machine: how many tokens a second the bundled model scores
	$(BIN)/python -m benchmarks

kafka: $(READY) ## a real Kafka on this machine, to play with: needs Java and Maven, no Docker
	$(BIN)/python -m tests.kafka.kraft --topic sequences:4 --topic predictions:4 --topic sequences.dlq:4

chaos: $(READY) ## five long runs on a real Kafka while workers and broker are killed (CHAOS= for other options)
	$(BIN)/python -m tests.chaos $(CHAOS)

lock: $(READY) ## resolve the dependencies anew into requirements/*.txt
	@requirements/lock.sh $(BIN)/uv

clean: ## remove .venv and everything else that is not in git but made by this Makefile
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
