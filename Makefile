# Two commands do all set-up on a machine with Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/demo
# A folder or hub id; without one it is the small trained sibling of this repository.
CHECKPOINT ?= models/demo
comma := ,
UNIT := not full and not real and not haswell and not arm and not clients and not phone and not apps and not packages and not audits
# Where `make bench` and `make peers` keep their full-size stand-in, bundle and results; COMPARE_OPTIONS go to
# compare-embedding, after their own.
BENCH := build/bench
COMPARE_OPTIONS ?=

# What a board installs from: `make wheelhouse ARCH=aarch64 PYTHON=3.11` names the board's architecture and its
# Python; in every other target PYTHON is an interpreter here. EXTRAS=litert adds LiteRT's engine.
ARCH ?= aarch64
BOARD_PYTHON := $(or $(filter 3.%,$(PYTHON)),3.11)
ifneq ($(filter 3.%,$(PYTHON)),)
override PYTHON := python3
endif
WHEELHOUSE ?= dist/wheelhouse-$(ARCH)-$(BOARD_PYTHON)
LEAN ?= dist/lean-$(ARCH)-$(BOARD_PYTHON)
FOR_BOARD := --quiet --only-binary=:all: --python-version $(BOARD_PYTHON) $(foreach tag,\
    manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014,--platform $(tag)_$(ARCH))

.PHONY: demo test lint types unit test-full test-haswell test-avx2 test-arm test-clients test-phone test-apps test-packages test-audits test-soak wheelhouse lean bench ladder peers clean

demo: $(READY)
	@mkdir -p $(DEMO)
	$(BIN)/export-embedding "$(CHECKPOINT)" $(DEMO)/bundle --overwrite --precision fp32,int8 \
	    $(if $(filter models/demo,$(CHECKPOINT)),--dims 384$(comma)256$(comma)192)
	$(BIN)/validate-embedding $(DEMO)/bundle --reference "$(CHECKPOINT)" --examples

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# What only the tests of clusters need, 800 MB: Ray, and Spark where Java is.
$(VENV)/.clusters: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[ray$(if $(shell command -v java),$(comma)spark)]'
	@touch $@

# Two processes of one thread each: faster on two cores than one process of two.
unit: $(READY) $(VENV)/.clusters
	@$(MAKE) --no-print-directory build/onnxruntime/.ready || echo "The tests of runtime/c/embed.c are skipped."
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "$(UNIT)"

# Full-size stand-in: minutes of work, about 6 GB of disk.
test-full: $(READY)
	$(BIN)/pytest -m full -s

# A CPU without VNNI: this one with AVX-512 and VNNI hidden, at its own speed, or emulated by qemu-user-static.
test-haswell: $(READY)
	$(BIN)/pytest -m haswell

# Everything that `make test` runs, on such a CPU.
test-avx2: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/support/other_cpus/avx2_machine.py \
	    $(BIN)/python -m pytest -n 2 --dist loadfile -m "$(UNIT)"

# A 64-bit ARM board, emulated: three kinds of CPU, the real wheels; and the CPU of test-haswell. 15 minutes.
test-arm: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "arm or haswell" -rA

# ONNX Runtime's C headers and Java classes, which no package on PyPI has: its archive for Android, out of npm.
ORT_PACKAGE := com.github.asus4.onnxruntime
ORT_SHA256 := e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d
build/onnxruntime/.ready:
	@mkdir -p build/onnxruntime
	cd build/onnxruntime && npm pack --silent $(ORT_PACKAGE)@0.4.9
	cd build/onnxruntime && echo "$(ORT_SHA256)  $(ORT_PACKAGE)-0.4.9.tgz" | sha256sum --check --quiet
	cd build/onnxruntime && tar xzf $(ORT_PACKAGE)-0.4.9.tgz --strip-components 3 package/Plugins/Android/onnxruntime.aar
	cd build/onnxruntime && python3 -m zipfile -e onnxruntime.aar . && rm *.tgz && rm -r jni
	@touch $@

# Other ONNX clients on a bundle: transformers.js, for which Node >= 20 and npm must be there.
test-clients: $(READY) build/clients/.ready
	$(BIN)/pytest -m clients

build/clients/.ready: tests/end_to_end/clients/package-lock.json tests/end_to_end/clients/vectors.mjs
	@mkdir -p build/clients
	cp tests/end_to_end/clients/package.json tests/end_to_end/clients/package-lock.json tests/end_to_end/clients/vectors.mjs build/clients
	cd build/clients && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# The Kotlin of runtime/ONNX.md on a JVM, which must be there. npm has its compiler, and a package of PyPI the
# newest of ONNX Runtime's Java classes with a library for Linux: 250 MB.
test-apps: $(READY) build/onnxruntime/.ready build/apps/.ready
	$(BIN)/pytest -m apps -rA

build/apps/.ready:
	@mkdir -p build/apps
	cd build/apps && npm pack --silent kotlin-compiler@2.4.20 && tar xzf kotlin-compiler-2.4.20.tgz
	$(BIN)/python -m pip download --quiet --no-deps --no-binary pyserini -d build/apps pyserini==1.6.0
	cd build/apps && tar xzf pyserini-1.6.0.tar.gz --strip-components 4 --wildcards '*.jar' && mv anserini-*.jar anserini.jar
	rm build/apps/*.tgz build/apps/*.tar.gz
	@touch $@

# The page of compare-phone in headless Chromium, as wide as a phone: chromium, Node >= 20 and npm must be there.
test-phone: $(READY)
	$(BIN)/compare-phone --fetch
	$(BIN)/pytest -m phone -rA

# Ten minutes of clients' faults and killed workers against the service.
test-soak: $(READY)
	SOAK_SECONDS=600 $(BIN)/pytest tests/runtime/serve/test_soak.py

# Packages for MediaPipe and LiteRT-LM, opened by these themselves; sentencepiece makes the stand-in's tokenizer.
test-packages: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[packages]' sentencepiece==0.2.3
	$(BIN)/pytest -m packages -rA

# Files that other converters wrote, judged by `validate-embedding --audit`. optimum-cli gets an environment of
# its own; the LiteRT conversion runs where litert-torch is installed.
test-audits: $(READY) build/peers/optimum/.ready
	$(BIN)/pytest -m audits -rA

build/peers/optimum/.ready: validate/peers/optimum.txt
	$(PYTHON) -m venv build/peers/optimum
	build/peers/optimum/bin/python -m pip install --quiet -r validate/peers/optimum.txt
	@touch $@

# All that a board without internet installs from: copy the folder there.
wheelhouse: $(READY)
	rm -rf $(WHEELHOUSE)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEELHOUSE) .
	$(BIN)/python -m pip download $(FOR_BOARD) --dest $(WHEELHOUSE) \
	    "$$(ls $(WHEELHOUSE)/embedding_edge-*.whl)$(if $(EXTRAS),[$(EXTRAS)])"

# The least that runs ONNX bundles, without what the runtime does not use: a folder to copy to the board.
lean: wheelhouse
	rm -rf $(LEAN)
	$(BIN)/python -m pip install $(FOR_BOARD) --no-index --find-links $(WHEELHOUSE) --no-deps --no-compile \
	    --target $(LEAN) embedding-edge numpy onnxruntime
	$(BIN)/python runtime/prune.py $(LEAN)

# Every graph of a full-size bundle beside PyTorch, and int8 beside what this CPU could do: 20 minutes on a
# quiet machine with two cores, about 8 GB of disk.
bench: $(READY) $(BENCH)/bundle
	$(BIN)/compare-embedding $(BENCH)/bundle --reference $(BENCH)/checkpoint --per-tensor --account onnx/int8 \
	    --lengths 16,64,256,512,1024,2048,8x128 --output $(BENCH)/ours $(COMPARE_OPTIONS)

# What every graph of a checkpoint is worth, and what it costs: `make ladder CHECKPOINT=FOLDER STS=FILE`. Of the
# real model an hour on a quiet machine with two cores, about 8 GB of disk.
LADDER := build/ladder
STS ?=
LADDER_PRECISIONS ?= fp32,fp16,int8,int8_q4,mixed,int4
ladder: $(READY)
	@mkdir -p $(LADDER)
	$(BIN)/export-embedding "$(CHECKPOINT)" $(LADDER)/bundle --overwrite --format onnx,litert \
	    --precision $(LADDER_PRECISIONS) $(if $(filter models/demo,$(CHECKPOINT)),--dims 384$(comma)256$(comma)192)
	$(BIN)/embedding-ladder $(LADDER)/bundle --reference "$(CHECKPOINT)" $(if $(STS),--sts "$(STS)") \
	    --output $(LADDER)/result

# The same bundle beside what people use today, each in an environment of its own: an hour, about 12 GB of disk.
# What cannot be installed is named and left out.
peers: $(READY) $(BENCH)/bundle
	$(BIN)/python -m embedding_validate.compare.peers $(BENCH)/bundle $(BENCH)/checkpoint $(BENCH)/peers \
	    -- $(COMPARE_OPTIONS)

$(BENCH)/checkpoint: | $(READY)
	@mkdir -p $(BENCH)
	$(BIN)/python models/standin.py --size full $(BENCH)/checkpoint

$(BENCH)/bundle: | $(BENCH)/checkpoint
	$(BIN)/export-embedding $(BENCH)/checkpoint $(BENCH)/bundle --format onnx,litert \
	    --precision fp32,int8,mixed,int4

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else \
	    f"This project needs Python 3.11 or newer, and {sys.executable} is {v}. Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
