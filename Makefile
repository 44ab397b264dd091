# Works with GNU make 3.81 and newer, Python 3.11 and newer, and a package index; nothing else.

VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
TESTS ?= tests/unit tests/property tests/fuzz tests/simulation tests/tools tests/integration tests/training tests/kafka tests/chaos
# The tests with real brokers have two workers of their own, see tests/conftest.py; WORKERS=0 for none.
WORKERS ?= auto
SIDE_BY_SIDE = --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTHONS ?= 3.12 3.13
PORT ?= 9092
FUZZ_SECONDS ?= 180
SBOM ?= dist/virnucpro-stream.cdx.json
# Where `make check-deploy` keeps its tools, and the tests of tests/deploy look for them.
DEPLOY_TOOLS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/virnucpro-stream/deploy-tools
CHAOS ?= --seeds 1,2,3,4,5 --records 20000 --faults 40

# For machines that differ: see the head of requirements/install.sh.
export PYTHON INDEX_URL TORCH_INDEX CPU_ONLY

.DEFAULT_GOAL := help
.PHONY: docs help setup demo test coverage lint mutants check-lower-bounds check-pythons check-deploy check-deploy-quick check-images audit sbom fuzz bench bench-gpu bench-e2e bench-cpu bench-latency bench-start bench-scale kafka chaos lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything that is needed, in the locked versions (CPU_ONLY=1: 1.4 GB less)

$(READY): requirements/dev.txt requirements/uv.txt requirements/install.sh pyproject.toml
	@requirements/install.sh $(VENV)
	@touch $@

demo: $(READY) ## real sequences in, predictions out, on an embedded broker: no Docker, no GPU
	@$(BIN)/virnucpro demo

test: $(READY) ## run all tests (TESTS=tests/unit for some)
	$(BIN)/pytest $(SIDE_BY_SIDE) $(TESTS)

coverage: $(READY) ## run tests and show which lines and branches they do not reach (TESTS= as above)
	$(BIN)/pytest $(SIDE_BY_SIDE) $(TESTS) --cov --cov-report=term

lint: $(READY) ## check style, types, which package imports which, spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell

mutants: $(READY) ## break one mechanism at a time; writes what notices into docs/reliability.md (MUTANTS="a 'b c'" for some)
	$(BIN)/python -m tests.tools.mutants --write $(MUTANTS)

check-lower-bounds: $(READY) ## unit tests with the oldest versions that pyproject.toml allows (3 GB to download)
	@requirements/check-lower-bounds.sh .scratch/lowest $(BIN)

check-pythons: $(READY) ## unit tests with other Pythons: PYTHONS=3.12 for one
	@requirements/check-pythons.sh .scratch $(BIN) $(PYTHONS)

check-deploy: $(READY) ## check deploy/ with helm, a kube-apiserver, promtool, linters (the first time: ten minutes of Go builds)
	@deploy/tools.sh "$(DEPLOY_TOOLS)"
	DEPLOY_TOOLS="$(DEPLOY_TOOLS)" $(BIN)/pytest -rs tests/deploy tests/integration/test_status_page.py

check-deploy-quick: $(READY) ## of check-deploy all but the chart on a kube-apiserver; its tools take two minutes the first time
	@deploy/tools.sh "$(DEPLOY_TOOLS)" quick
	DEPLOY_TOOLS="$(DEPLOY_TOOLS)" $(BIN)/pytest -rs tests/deploy tests/integration/test_status_page.py

check-images: $(READY) ## build the images without Docker and run them, as root: minutes, and 20 GB of disk
	@deploy/tools.sh "$(DEPLOY_TOOLS)" images
	DEPLOY_TOOLS="$(DEPLOY_TOOLS)" DEPLOY_IMAGES=1 $(BIN)/pytest -rs tests/deploy/test_images.py

audit: $(READY) ## look the locked versions up in a vulnerability database (AUDIT_SERVICE=pypi, OSV_URL= or AUDIT_DATABASE=FOLDER for another)
	@requirements/supply-chain.sh .scratch/supply-chain $(BIN) audit

sbom: $(READY) ## write what the service consists of as CycloneDX (SBOM= for another file)
	@requirements/supply-chain.sh .scratch/supply-chain $(BIN) sbom $(SBOM)

fuzz: $(READY) ## arbitrary bytes for all that reads bytes of others, for FUZZ_SECONDS=180 each (FUZZ="messages bundles" for some)
	@tests/fuzz/run.sh .scratch/fuzz $(BIN) $(FUZZ_SECONDS) $(FUZZ)

bench: $(READY) ## measure this machine: how many tokens a second the bundled model scores
	$(BIN)/python -m benchmarks.forward

bench-gpu: $(READY) ## measure the forward beside peers on a GPU, for docs/performance.md (BENCH= for options)
	$(BIN)/python -m benchmarks.gpu $(BENCH)

bench-e2e: $(READY) ## measure the service end to end beside the bare model, for docs/performance.md
	$(BIN)/python -m benchmarks.e2e $(BENCH)

bench-cpu: $(READY) ## measure predict, and the service beside plain loops on a real Kafka, on this machine's processors
	$(BIN)/python -m benchmarks.cpu $(BENCH)

bench-latency: $(READY) ## measure how long an answer takes, by offered load
	$(BIN)/python -m benchmarks.latency $(BENCH)

bench-start: $(READY) ## measure how long commands take to start
	$(BIN)/python -m benchmarks.start $(BENCH)

bench-scale: $(READY) ## measure 1, 2 and 4 processes in a group, and one that joins
	$(BIN)/python -m benchmarks.scale $(BENCH)

docs: $(READY) ## write the tables of the guides from the code
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/asyncapi.py
	$(BIN)/python deploy/monitoring/dashboard.py

kafka: $(READY) ## a real Kafka on this machine, to play with: needs Java and Maven, no Docker (PORT=9092)
	$(BIN)/python -m tests.support.kafka.kraft --port $(PORT) --topic sequences:4 --topic predictions:4 --topic sequences.dlq:4

chaos: $(READY) ## five long runs on three real brokers under faults of every kind (CHAOS= for other options)
	$(BIN)/python -m tests.chaos $(CHAOS)

lock: $(READY) ## resolve the dependencies again into requirements/*.txt
	@requirements/lock.sh $(BIN)/uv

clean: ## remove .venv and everything else that is not in git but made by this Makefile
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .scratch build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
