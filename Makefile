# On a fresh machine, `make run` and `make test` install what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev,video,box2d,optuna
# Exact versions, from requirements.lock; torch comes first, so that nothing else chooses its build.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED = $(PIP) --constraint requirements.lock

.PHONY: run test test-slow test-distributed slurm ray check install benchmark docs site wheel clean

run: install  ## train A3C on Pendulum; print where the CSV files, the checkpoint and the figure are
	$(BIN)/python src/run.py algo=a3c env=pendulum workers=4

test: check  ## ruff, mypy and the quick tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: install  ## the tests that train, or kill processes, for minutes
	$(BIN)/python -m pytest -m 'slow and not distributed' -n 2 --dist worksteal

test-distributed: slurm ray  ## sweeps with Slurm and Ray on this machine, at the same time
	$(BIN)/python -m pytest -m distributed -n 2 --dist loadfile

slurm: install  ## a Slurm on this machine (needs Debian and root)
	apt-get update --quiet
	apt-get install --yes --no-install-recommends slurmctld slurmd slurmdbd slurm-client munge mariadb-server
	$(LOCKED) -e '.[$(EXTRAS),slurm]'

ray: install
	$(LOCKED) -e '.[$(EXTRAS),ray]'

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: install  ## speed of A3C, compared with a plain loop
	$(BIN)/python src/benchmark.py

docs: install  ## generate docs/configuration.md, redraw the figures of the pages, and build the site in build/site
	$(BIN)/python -m ablate.cli.configuration_page
	$(BIN)/python sweeps/figures.py
	$(LOCKED) -e '.[docs]'
	$(MAKE) site

BUILD ?= build
site:
	mkdir -p $(BUILD)/pages/sweeps
	ln -sfn $(CURDIR)/docs $(BUILD)/pages/docs
	ln -sfn $(CURDIR)/sweeps/results $(BUILD)/pages/sweeps/results
	for file in README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff; do ln -sf $(CURDIR)/$$file $(BUILD)/pages/; done
	NO_MKDOCS_2_WARNING=1 PAGES=$(abspath $(BUILD))/pages $(BIN)/mkdocs build --quiet --strict --site-dir $(abspath $(BUILD))/site

wheel: install  ## the package, in build/
	$(BIN)/python -m hatchling build --target wheel --directory build

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(LOCKED) -e '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
