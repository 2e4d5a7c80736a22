# fbs-tutorial: `make lab` to read and run the notebooks, `make test` for everything that must pass.
PYTHON ?= python3
PORT ?= 8888
IP ?= localhost
TAG ?= main
SECONDS ?= 360
ONLY ?= tests,bench,train,notebooks
SEED ?= 1
VENV := .venv
BIN := $(VENV)/bin
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
# Each test process keeps to one thread; the tests of a file, and the cells of a notebook, share one.
# There is one process more than cores, for some tests wait for a browser or for another process.
WORKERS := $(shell $(PYTHON) -c 'import os; print(min(8, 1 + (os.cpu_count() or 1)))')
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout 300
DIGITS := fbs_tutorial/assets/digits
CIFAR := fbs_tutorial/assets/cifar10
CORE := calibrate contract convert dynamics errors execution gated graph losses macs saliency tables wta

.DEFAULT_GOAL := help
.PHONY: help setup lab test quick lint unit nbval test-gpu test-native-asan test-colab test-oldest colab wheel run notebooks slides site test-site digits bench bench-gpu budget gpu ablation trials bench-live compare compare-fashion course course-two course-all clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/ready ## make .venv with everything; does nothing when it is up to date

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lab,test]'
	@touch $@

lab: setup ## open notebook 00 in JupyterLab (PORT=8888 IP=localhost)
	@$(BIN)/python -c "from fbs_tutorial.execution import native; native.available()" &
	JUPYTER_CONFIG_PATH="$(CURDIR)/tools/lab:$$JUPYTER_CONFIG_PATH" \
	  $(BIN)/python -m jupyterlab --allow-root --ip $(IP) --port $(PORT) --ServerApp.log_level=WARN \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

test: lint ## lint, unit, property and browser tests, every notebook twice
	$(PYTEST) $(NBVAL) --durations 5 tests notebooks

quick: lint ## lint and the tests of the core, in two minutes
	$(PYTEST) --dist worksteal -m 'not slow' -k 'not mobilenet and not shufflenet' $(CORE:%=tests/test_%.py)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: setup
	$(PYTEST) tests

nbval: setup
	$(PYTEST) $(NBVAL) tests/test_notebooks.py notebooks

test-gpu: setup ## the tests of the CUDA backend, those that need an NVIDIA GPU among them
	$(BIN)/python -m pytest -q tests/test_cuda.py

test-native-asan: setup ## the tests of the C++ kernel with memory and undefined behaviour watched
	XDG_CACHE_HOME=build CXX=g++ CXXFLAGS="-g -fsanitize=address,undefined -fno-sanitize-recover" \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 $(BIN)/python -m pytest -q -x tests/test_native.py

test-colab: setup ## every notebook alone in an empty folder, with the versions of Google Colab (5 GB in build/)
	$(BIN)/python tools/shapes.py colab --tests live live_parts --notebooks $(NOTEBOOKS)

test-oldest: setup ## the tests of the core and two notebooks with the oldest supported versions (7 GB in build/)
	$(BIN)/python tools/shapes.py oldest --tests $(CORE) --notebooks $(wildcard notebooks/0[04]*.ipynb)

colab: ## the address of a fork, for Google Colab: REPO=owner/name TAG=main; REPO= takes it out again
	@$(if $(filter undefined,$(origin REPO)),$(error say which: make colab REPO=owner/name TAG=main))
	@$(PYTHON) tools/colab.py --repo "$(REPO)" --tag "$(TAG)"

wheel: setup ## the package as a wheel, and a small one without the CIFAR-10 weights, in dist/
	$(BIN)/python tools/wheels.py

run: setup ## execute every notebook headless; the executed copies go to build/
	$(BIN)/python tools/run_notebooks.py --out build $(NOTEBOOKS)

notebooks: setup ## refresh the committed outputs of the notebooks
	$(BIN)/python tools/run_notebooks.py $(NOTEBOOKS)

course: setup ## editions for students and teachers, and a folder for nbgrader, in build/course (SEED=1)
	$(BIN)/python tools/course.py --seed $(SEED)

course-two course-all: $(VENV)/nbgrader
	$(BIN)/python tools/course.py --seed $(SEED) --nbgrader $(if $(filter %two,$@),notebooks/03*.ipynb notebooks/09*.ipynb)

course-two: ## let nbgrader itself release and grade two notebooks of the course
course-all: ## the same with all of them

$(VENV)/nbgrader: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[course]'
	@touch $@

$(VENV)/site: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[site]'
	@touch $@

slides: $(VENV)/site ## the slides of the lecture, from the notebooks, into build/slides
	$(BIN)/python tools/slides.py --out build/slides
	$(BIN)/python -m fbs_tutorial live --out build/slides/live.html

site: slides ## the course as static pages, slides among them, into build/site
	$(BIN)/python tools/site_pages.py --out build/site --slides build/slides

test-site: site ## links, scripts, small screens and accessibility of the pages, in a browser
	FBS_SITE=build/site $(BIN)/python -m pytest -q tests/test_site.py

digits: setup ## train the shipped digits networks again, three seeds (2 minutes on 2 cores)
	$(BIN)/python tools/ship_digits.py

bench: setup ## measure times on this CPU into benchmarks/ and the README (15 minutes, idle machine)
	$(BIN)/python -m fbs_tutorial bench --out benchmarks/cpu.json
	$(BIN)/python -m fbs_tutorial bench --model mcifarnet,resnet18 --densities 0.5,0.25 \
	  --threads 1 --out benchmarks/one_thread.json
	$(BIN)/python -m fbs_tutorial bench --layers --densities 0.8,0.5,0.25 --threads 1 \
	  --out benchmarks/layers_one_thread.json
	$(BIN)/python tools/ship_bench.py

bench-gpu: setup ## the same on this machine's NVIDIA GPU
	$(BIN)/python -m fbs_tutorial bench --device cuda --out benchmarks/cuda.json
	$(BIN)/python tools/ship_bench.py

bench-live: setup ## how long the living picture takes from an event to the changed page (needs a browser)
	$(BIN)/python tools/bench_live.py

gpu: setup ## all that a GPU is wanted for, in SECONDS=360, ONLY=tests,bench,train,notebooks; goes on when called again
	$(BIN)/python tools/gpu.py --seconds $(SECONDS) --only $(ONLY)

budget: setup ## two looks on CIFAR-10 and digits, into benchmarks/budget (20 minutes on 2 cores; FBS_DATA)
	$(BIN)/python -m fbs_tutorial budget --data digits --weights $(DIGITS)/d0.1.safetensors \
	  $(DIGITS)/d0.2.safetensors $(DIGITS)/any.safetensors@0.2,0.3,0.5 \
	  $(DIGITS)/plain.safetensors --out benchmarks/budget/digits.json
	$(BIN)/python -m fbs_tutorial budget --data cifar10 --weights $(CIFAR)/static0.3.safetensors \
	  $(CIFAR)/d0.3.safetensors $(CIFAR)/any.safetensors@0.3,0.5,0.7 \
	  $(CIFAR)/static0.5.safetensors $(CIFAR)/static0.5-distilled.safetensors \
	  $(CIFAR)/d0.5.safetensors@0.5,0.7 $(CIFAR)/static0.7.safetensors \
	  $(CIFAR)/plain.safetensors --out benchmarks/budget/cifar10.json
	$(BIN)/python tools/ship_budget.py

compare: setup ## FBS beside its static relatives on the digits, three seeds (6 minutes on 2 cores)
	$(BIN)/python -m fbs_tutorial compare --seeds 0,1,2 --out benchmarks/compare/digits.json
	$(BIN)/python tools/ship_compare.py

FASHION = --data fashion_mnist --densities 0.3 --images 6000 --epochs 4
compare-fashion: setup ## the same on Fashion-MNIST: settings, trainings, then times (30 minutes on 2 cores; FBS_DATA)
	$(BIN)/python -m fbs_tutorial compare --choose $(FASHION) --seeds 0 \
	  --out benchmarks/compare/choices-fashion_mnist.json
	for times in '' --times; do $(BIN)/python -m fbs_tutorial compare $(FASHION) --seeds 0,1,2 \
	  --networks build/compare-fashion_mnist $$times --out benchmarks/compare/fashion_mnist.json \
	  || exit 1; done
	$(BIN)/python tools/ship_compare.py

ablation: setup ## what distillation is worth on small data, three seeds (an hour on 2 cores)
	$(BIN)/python tools/ablation.py
	$(BIN)/python tools/gains.py

trials: setup ## does choosing pay, one network for all densities, gates that end in NaN (2 hours on 2 cores; FBS_DATA)
	$(BIN)/python -m fbs_tutorial choice --data digits --model digitsnet --winners 0.125 --pools 0.25,0.5,1 \
	  --epochs 12 --gains 0.3,3.0 --seeds 0,1,2 --out benchmarks/choice/digits.json
	$(BIN)/python -m fbs_tutorial choice --images 6000 --pools 0.5,1.0 --gains 0.3,3.0 --seeds 0,1,2 \
	  --out benchmarks/choice/fashion_mnist.json
	$(BIN)/python tools/pairs.py
	$(BIN)/python -m fbs_tutorial stability --steps 60 --seeds 0,1,2 --out benchmarks/stability/digits.json
	$(BIN)/python tools/any_density.py
	$(BIN)/python tools/ship_trials.py
	$(BIN)/python tools/ship_answer.py

clean: ## remove what the other targets made, .venv too
	rm -rf $(VENV) build *.egg-info .pytest_cache .hypothesis .ruff_cache
