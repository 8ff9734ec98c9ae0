# pcace_dist: set-up, demo, tests. Needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo street street-full test test-all test-faults test-soak test-statistics test-apps test-browser test-cluster test-jobs wheel lint types check stability bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,report]'
	touch $(STAMP)

demo: setup
	rm -rf runs/mnist
	$(BIN)/pcace rank examples/mnist/job.yaml --top 5

# examples/street: the sample that lies there; a city drawn, packed, learnt and checked from nothing
street: setup
	rm -rf runs/street
	$(BIN)/pcace rank examples/street/job.yaml --top 3
	$(BIN)/pcace report runs/street
	$(BIN)/python -m examples.street.truth runs/street

street-full: setup
	bash examples/street/full.sh $(BIN) runs/street-full

test: setup
	$(BIN)/python -m pytest -q

test-faults test-soak test-statistics test-apps test-browser test-cluster test-jobs: test-%: setup
	$(BIN)/python -m pytest -q -m $* --timeout 1800

test-all: test test-faults test-soak test-statistics test-apps test-browser test-cluster test-jobs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types test

# the stability of rankings as the number of images grows, on MNIST (see docs/method.md); --example for a quick one
stability: setup
	$(BIN)/python -m tests.statistics.stability

# what `ray up` takes to a cluster (cluster/ray-up): the wheel, its pinned requirements, drain.py
wheel: setup
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	cp constraints.txt dist/constraints.txt
	cp cluster/drain.py dist/drain.py

bench: setup
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.groups

clean:
	rm -rf runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
