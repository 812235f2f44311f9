# Needs python3 (3.11 or newer) with venv, and make. The README has the commands for machines without make.
# Only relative paths, so a folder called "My Course (2026)" is fine.

PYTHON ?= python3
JOBS ?= 2

.PHONY: run test strict names oracle evidence release-check clean

run: .venv/run.stamp
	.venv/bin/python -m minidl compare $(ARGS)

# One BLAS thread per test process: two of them already fill two cores.
test: export OMP_NUM_THREADS = 1
test: .venv/test.stamp
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/python -m pytest -n $(JOBS) $(ARGS)

# The same tests on an array library as strict as CuPy, which needs no GPU: docs/backends.md
strict: export OMP_NUM_THREADS = 1
strict: export MINIDL_TEST_BACKEND = strict
strict: .venv/test.stamp
	.venv/bin/python -m pytest -n $(JOBS) $(ARGS)

# The names that minidl uses of CuPy, against CuPy itself: it imports without a GPU.
names: .venv-cupy/names.stamp
	.venv-cupy/bin/python -m pytest tests/test_cupy_names.py $(ARGS)

# The comparison with PyTorch, in an environment of its own: minidl itself never needs torch.
oracle: export OMP_NUM_THREADS = 1
oracle: .venv-oracle/oracle.stamp
	.venv-oracle/bin/python -m pytest -n $(JOBS) -m oracle $(ARGS)

# What takes too long for every change: both kill series in full, the published networks at 224x224, the experiments
# behind docs/results, and how often a diagnosis is right. Some hours; needs MNIST, CIFAR-10 and ImageNet photographs
# (see `minidl data list`).
evidence: .venv/test.stamp
	.venv/bin/python tests/kill_training.py --kills 20
	.venv/bin/python tests/kill_compare.py --kills 20
	.venv/bin/python -m benchmarks.published
	.venv/bin/python docs/results/make.py --jobs $(JOBS)
	.venv/bin/python docs/results/advice.py
	.venv/bin/python docs/diagnosis/calibrate.py --jobs $(JOBS)

# What is given away: builds sdist and wheel, and tries the wheel in an empty environment far from here. Some minutes;
# needs what pip needs to install NumPy and matplotlib. What has passed lies in dist/.
release-check: .venv/test.stamp
	.venv/bin/python tests/release_check.py

clean:
	rm -rf .venv .venv-oracle .venv-cupy build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/run.stamp: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/test.stamp: pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@ .venv/run.stamp

.venv-oracle/oracle.stamp: pyproject.toml | .venv-oracle/bin/python
	.venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

.venv-cupy/names.stamp: pyproject.toml | .venv-cupy/bin/python
	.venv-cupy/bin/python -m pip install --quiet --disable-pip-version-check "cupy-cuda12x==14.2.*"
	.venv-cupy/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

.venv/bin/python .venv-oracle/bin/python .venv-cupy/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "minidl needs Python 3.11 or newer, and there is no $(PYTHON) here."; \
	  echo "Install Python, or say where it is: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "minidl needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V)."; \
	  echo "Install a newer one and name it: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python cannot make virtual environments: its venv or ensurepip module is missing."; \
	  echo "On Debian and Ubuntu: sudo apt install python3-venv. Then run make again."; exit 1; }
	$(PYTHON) -m venv $(@D:/bin=) || { rm -rf $(@D:/bin=); exit 1; }
