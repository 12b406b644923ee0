# make demo   train every family on built-in data; pictures, films and meshes in outputs/demo/index.html
# make test   the tests            make lint   ruff and pyright
# make test-slow   tests that do not fit into its ten minutes
# make compat NERFSTUDIO=path   the end-to-end tests on another nerfstudio: a checkout, laid over the installed one
# make bench  measurements beside nerfstudio's own models (takes some hours on two cores)
# Everything installs into .venv first; a second call re-uses it.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEMO ?= outputs/demo
DATA ?= outputs/bench/blender
SURFACE ?= outputs/bench/surface

.PHONY: setup demo test test-slow compat lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev,browser,mono]'
	touch $(STAMP)

demo: setup
	$(BIN)/python -m demo --output-dir $(DEMO)

test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -m slow -n logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder

# Training, resuming, and every command on a run of each family, slow tests included; without browsers and without bad
# input.
compat: setup
	test -f "$(NERFSTUDIO)/nerfstudio/__init__.py"
	PYTHONPATH="$(abspath $(NERFSTUDIO))" $(BIN)/python -m pytest -m "" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		tests/common_ns/nerfstudio_seam tests/test_methods.py $(addprefix tests/e2e/test_,$(addsuffix .py,\
		command_table mipnerf mipnerf360 depth surfaces surface_exports miner miner_mesh miner_zoom))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# A Blender scene can be given: make bench DATA=path/to/lego, and a capture for mip-NeRF 360 and Zip-NeRF:
# CAPTURE=path/to/fox.
# Without them, the sample scene is measured on.
bench: setup
	test -d $(DATA) || $(BIN)/ns-sample-scene --output-dir outputs/bench --layouts blender --resolution 100
	$(BIN)/python -m benchmarks.mipnerf speed --data $(DATA)
	$(BIN)/python -m benchmarks.mipnerf quality --data $(DATA)
	$(BIN)/python -m benchmarks.mipnerf360 speed $(if $(CAPTURE),--data $(CAPTURE))
	$(BIN)/python -m benchmarks.mipnerf360 quality $(if $(CAPTURE),--data $(CAPTURE))
	$(BIN)/python -m benchmarks.zip_nerf speed $(if $(CAPTURE),--data $(CAPTURE))
	$(BIN)/python -m benchmarks.zip_nerf parts $(if $(CAPTURE),--data $(CAPTURE))
	$(BIN)/python -m benchmarks.large_capture
	$(BIN)/python -m benchmarks.miner astronaut
	$(BIN)/python -m benchmarks.miner random
	test -d $(SURFACE) || $(BIN)/ns-sample-scene --output-dir $(SURFACE) --layouts idr
	$(BIN)/python -m benchmarks.sdf run --data $(SURFACE)/idr --reference $(SURFACE)/mesh.ply
	$(BIN)/python -m benchmarks.viewer previews
	$(BIN)/python -m benchmarks.viewer zoom
	$(BIN)/python -m benchmarks.splats raster
	$(BIN)/python -m benchmarks.startup run

clean:
	rm -rf .venv outputs
