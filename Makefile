# Two commands do all set-up on a machine with Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/demo
# A folder or hub id; without one the demo makes a tiny stand-in with random weights.
CHECKPOINT ?= $(DEMO)/checkpoint
# Where `make bench` keeps its full-size stand-in, bundle and result; options go to the benchmark.
BENCH := build/bench
BENCH_OPTIONS ?=

.PHONY: demo test lint types unit test-full test-haswell test-clients bench clean

demo: $(READY)
	@mkdir -p $(DEMO)
	@if [ "$(CHECKPOINT)" = "$(DEMO)/checkpoint" ]; then \
	    rm -rf $(DEMO)/checkpoint && $(BIN)/python models/standin.py --size tiny $(DEMO)/checkpoint; fi
	$(BIN)/export-embedding "$(CHECKPOINT)" $(DEMO)/bundle --overwrite --precision fp32,int8
	$(BIN)/validate-embedding $(DEMO)/bundle --reference "$(CHECKPOINT)" --examples

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# Two processes of one thread each: faster on two cores than one process of two.
unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not full and not real and not haswell and not clients"

# Full-size stand-in: minutes of work, about 6 GB of disk.
test-full: $(READY)
	$(BIN)/pytest -m full -s

# A CPU without VNNI, emulated by qemu-user-static.
test-haswell: $(READY)
	$(BIN)/pytest -m haswell

# Other ONNX clients on a bundle: transformers.js, for which Node >= 20 and npm must be there.
test-clients: $(READY) build/clients/.ready
	$(BIN)/pytest -m clients

build/clients/.ready: tests/clients/package-lock.json tests/clients/vectors.mjs
	@mkdir -p build/clients
	cp tests/clients/package.json tests/clients/package-lock.json tests/clients/vectors.mjs build/clients
	cd build/clients && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# Every graph of a full-size bundle beside PyTorch: 20 minutes on a quiet machine, about 4 GB of disk.
bench: $(READY) $(BENCH)/bundle
	$(BIN)/python -m embedding_validate.benchmark $(BENCH)/bundle --reference $(BENCH)/checkpoint \
	    --output $(BENCH)/benchmark.json $(BENCH_OPTIONS)

$(BENCH)/checkpoint: | $(READY)
	@mkdir -p $(BENCH)
	$(BIN)/python models/standin.py --size full $(BENCH)/checkpoint

$(BENCH)/bundle: | $(BENCH)/checkpoint
	$(BIN)/export-embedding $(BENCH)/checkpoint $(BENCH)/bundle --precision fp32,int8,int4

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else \
	    f"This project needs Python 3.11 or newer, and {sys.executable} is {v}. Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
