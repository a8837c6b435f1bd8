# Each target sets up what it needs: .venv is built from setup.py the first time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo smoke test test-fast lint format docs catalogue clean

demo: .venv/installed  ## train and compare on scikit-learn's digits, under 4 minutes
	$(BIN)/python run.py --recipe=demo

smoke: .venv/installed  ## every suite of the paper, seconds a run, on digits; about 20 minutes
	CUDA_VISIBLE_DEVICES=-1 $(BIN)/python run.py suite all --scale=smoke --runs=runs/smoke --workers=2

test: .venv/installed  ## the whole test suite
	$(BIN)/python -m pytest -q -rs -n 2 --dist worksteal

test-fast: .venv/installed  ## without the slow tests
	$(BIN)/python -m pytest -q -m "not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed  ## the API reference, from the docstrings, in build/api
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	$(BIN)/python -m pdoc --docformat google --output-directory build/api vfd_tf \
		vfd_tf.attacks vfd_tf.data vfd_tf.evaluation vfd_tf.models vfd_tf.training

catalogue: .venv/installed  ## docs/methods.md, from docstrings and docs/methods.toml
	$(BIN)/python docs/catalogue.py

.venv/installed: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache vfd_tf.egg-info build
