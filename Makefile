# pcace_dist: set-up, demo, tests. Needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo docs mnist imagenet street street-full street-scale test test-all test-faults test-outages test-soak test-statistics test-apps test-browser test-cluster test-install test-jobs wheel lint types check stability pictures reference bench release clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,report,serve,docs]'
	touch $(STAMP)

demo: setup
	rm -rf runs/mnist
	$(BIN)/pcace rank examples/mnist/job.yaml --top 5

# MNIST from the raw files to the figures (examples/mnist/README.md), into runs/mnist-walk:
#   make mnist                                   the 5,000 images that the example holds
#   make mnist MNIST_DIR=DIR                     DIR: a folder with the four idx files
#   make mnist MNIST_DIR=DIR TRAIN=1             and a network that is trained on them first
MNIST_RUNS := runs/mnist-walk
MNIST_DATA := $(if $(MNIST_DIR),$(MNIST_RUNS)/shards,examples/mnist/data)
MNIST_WEIGHTS := $(if $(TRAIN),$(MNIST_RUNS),examples/mnist)/weights.safetensors
MNIST_JOB := examples/mnist/job.yaml --set dataset.path=$(MNIST_DATA) --set model.weights=$(MNIST_WEIGHTS)

mnist: setup
	@test -z "$(TRAIN)" -o -n "$(MNIST_DIR)" || { echo "make mnist TRAIN=1: needs MNIST_DIR, a folder with the four idx files" >&2; exit 2; }
	rm -rf $(MNIST_RUNS)
	@mkdir -p $(MNIST_RUNS) && date +%s > $(MNIST_RUNS)/begun
	$(if $(MNIST_DIR),$(BIN)/pcace pack "$(MNIST_DIR)" $(MNIST_DATA) --shard-rows 10000)
	$(if $(TRAIN),$(BIN)/python -m examples.mnist.train "$(MNIST_DIR)" "$(MNIST_DIR)" --out $(MNIST_WEIGHTS))
	$(BIN)/pcace rank $(MNIST_JOB) --set output=$(MNIST_RUNS)/run --top 3
	$(BIN)/pcace report $(MNIST_RUNS)/run
	$(BIN)/pcace evaluate $(MNIST_RUNS)/run
	$(BIN)/pcace rank $(MNIST_JOB) --set output=$(MNIST_RUNS)/kept --set statistics.keep_codes=true --set statistics.components=10 --top 1
	$(BIN)/python -m examples.mnist.questions $(MNIST_RUNS)/kept $(MNIST_RUNS)/questions
	$(BIN)/python -m examples.mnist.figures $(MNIST_RUNS)/questions $(MNIST_RUNS)/figures
	@echo "make mnist: $$(( $$(date +%s) - $$(cat $(MNIST_RUNS)/begun) )) s; figures and numbers in $(MNIST_RUNS)/figures, the report is $(MNIST_RUNS)/run/report.html"

# examples/street: the sample that lies there; a city drawn, packed, learnt and checked from nothing
street: setup
	rm -rf runs/street
	@mkdir -p runs && date +%s > runs/street-begun
	$(BIN)/pcace rank examples/street/job.yaml --top 3
	$(BIN)/pcace report runs/street
	$(BIN)/pcace evaluate runs/street --layer conv3 --watch output:0
	$(BIN)/python -m examples.street.truth runs/street
	$(BIN)/python -m examples.street.figures runs/street runs/street/figures
	@echo "make street: $$(( $$(date +%s) - $$(cat runs/street-begun) )) s; figures in runs/street/figures, the report is runs/street/report.html"

street-full: setup
	bash examples/street/full.sh $(BIN) runs/street-full

# a million rows of metadata with re-used pictures; `make street-scale ROWS=20000` for a quick one
ROWS ?= 1000000
street-scale: setup
	bash examples/street/scale.sh $(BIN) runs/street-scale $(ROWS)

test: setup
	$(BIN)/python -m pytest -q

test-faults test-outages test-soak test-statistics test-apps test-browser test-cluster test-install test-jobs: test-%: setup
	$(BIN)/python -m pytest -q -m $* --timeout 1800

test-all: test test-faults test-outages test-soak test-statistics test-apps test-browser test-cluster test-install test-jobs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vulture

types: setup
	$(BIN)/mypy

# the documentation as a site, site/index.html; a broken link is an error
docs: setup
	$(BIN)/python -m sphinx -q -b html -W --keep-going -c docs . site

check: lint types docs test

# the stability of rankings as the number of images grows, on MNIST (see docs/method.md); --example for a quick one
stability: setup
	$(BIN)/python -m tests.statistics.stability

# docs/*.svg, docs/serve.png and docs/report-*.png: drawings, and pictures of runs of the examples (runs/mnist, runs/pictures)
pictures: setup
	$(BIN)/pcace rank examples/mnist/job.yaml --top 1
	$(BIN)/python -m examples.diagrams docs
	$(BIN)/python -m examples.mnist.pictures runs/mnist docs
	$(BIN)/python -m tests.serving.picture runs/mnist docs/serve.png
	PCACE_EXECUTOR=threads $(BIN)/python -m tests.reporting.pictures docs

# docs/reference/, from the code
reference: setup
	$(BIN)/python -m tests.reference

# what `ray up` takes to a cluster (cluster/ray-up): the wheel, its pinned requirements, drain.py
wheel: setup
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	cp constraints.txt dist/constraints.txt
	cp cluster/drain.py dist/drain.py

# what is given to an index: sources and wheel, checked; what is in them as CycloneDX; known holes in the pinned versions
release: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --output-reproducible -o dist/sbom.json
	$(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip

# every figure in ratios of one run; `make bench BENCH=--quick` for some minutes, `BENCH="--only loader ray_data"` for some of it
bench: setup
	$(BIN)/python -m tests.benchmarks $(BENCH)

# examples/imagenet on a folder of images (IMAGES=...; default: crops of two photographs): pack, rank, report, and torchvision's
# architectures with weights given by path, at half of their usual size (CROP=224: at it, which takes VGG-16 four times as long)
IMAGENET ?= runs/imagenet
IMAGES ?= $(IMAGENET)/images
CROP ?= 112
imagenet: setup
	@mkdir -p $(IMAGENET) && date +%s > $(IMAGENET)/begun
	test -d $(IMAGES) || $(BIN)/python -m examples.imagenet.photographs $(IMAGES)
	$(BIN)/pcace pack $(IMAGES) $(IMAGENET)/shards --verify decode
	$(BIN)/pcace rank examples/imagenet/efficientnet.yaml --set dataset.path=$(IMAGENET)/shards --set output=$(IMAGENET)/efficientnet
	$(BIN)/pcace report $(IMAGENET)/efficientnet --no-synthesis
	for net in resnet18 vgg16; do \
	  $(BIN)/python -m examples.imagenet.random_weights $$net $(IMAGENET)/$$net.safetensors && \
	  $(BIN)/pcace rank examples/imagenet/$$net.yaml --set dataset.path=$(IMAGENET)/shards --set dataset.label=null \
	    --set "target={logit: predicted}" --set group_by=null --set model.weights=$(IMAGENET)/$$net.safetensors \
	    --set model.input.resize=$$(( $(CROP) * 8 / 7 )) --set model.input.crop=$(CROP) --set workers.max=2 --set output=$(IMAGENET)/$$net --top 5 || exit 1; \
	done
	@echo "make imagenet: $$(( $$(date +%s) - $$(cat $(IMAGENET)/begun) )) s; the report is $(IMAGENET)/efficientnet/report.html"

clean:
	rm -rf runs build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
