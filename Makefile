# Two commands on a fresh machine: `make labs` and `make test`. The README gives the same without make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: labs test bench offline notebooks clean

labs: .venv/installed
	$(BIN)/python -m utils labs

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ruff format --check --line-length 80 *.ipynb
	$(BIN)/python -m pytest

# Measures speed, both sides in one run; prints tables.
bench: .venv/installed
	for script in tests/benchmarks/bench_*.py; do echo "$$script"; PYTHONPATH=. $(BIN)/python $$script || exit 1; done

# Makes the embedded corpus, T5 and classifier anew: about a quarter of an hour on two cores.
offline: .venv/installed
	$(BIN)/python -m utils.offline.build
	$(BIN)/python -m utils.offline.card

.venv/installed: requirements.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt --constraint constraints.txt
	touch $@

# Runs the labs and stores the executed notebooks in the project, as they are read on the web.
notebooks: labs
	cp out/lab*.ipynb .
	$(BIN)/ruff format --quiet --line-length 80 *.ipynb

clean:
	rm -rf .venv out
