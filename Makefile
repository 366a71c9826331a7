# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: demo test test-all test-timm test-browser lint bench bench-gpu docs dist clean

# Installed again whenever the project file changes.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/python train_scripts/quickstart.py --output demo-output

# What a contributor runs: no wheels, no environments, no trainings, no compilation for GPUs.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto -m 'not (slow or wheel or gpu or timm_source or browser)'

# The browser by itself, at the end: beside other tests it waits for a core.
test-all: $(VENV)/installed
	$(BIN)/python -m pytest -n auto -m 'not browser'
	$(BIN)/python -m pytest tests/browser

# The unedited train.py and validate.py of timm; TIMM_SOURCE is a checkout of its repository.
test-timm: $(VENV)/installed
	TIMM_SOURCE='$(TIMM_SOURCE)' $(BIN)/python -m pytest tests/test_train_py.py

# The page of `timm-fractal explore` in a Chromium: one in the PATH, or that of `playwright install chromium`.
test-browser: $(VENV)/installed
	$(BIN)/python -m pytest tests/browser tests/test_explore.py

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.bench_render
	$(BIN)/python -m benchmarks.bench_start
	$(BIN)/python -m benchmarks.bench_datasets
	$(BIN)/python -m benchmarks.bench_loader
	$(BIN)/python -m benchmarks.bench_memory
	$(BIN)/python -m benchmarks.bench_shape
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bench_augment
	$(BIN)/python -m benchmarks.bench_step
	$(BIN)/python -m benchmarks.count_traffic

# Everything that needs a GPU, in at most ten minutes; TIMM_SOURCE is a checkout of timm's repository.
bench-gpu: $(VENV)/installed
	$(BIN)/python -m benchmarks.gpu '$(TIMM_SOURCE)' --json gpu.jsonl

# The site, in `site`; warnings are errors.
docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

dist: $(VENV)/installed
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) dist demo-output site
