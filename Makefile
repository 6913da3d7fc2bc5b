# Two commands on a fresh machine: `make labs` and `make test`. The README gives the same without make.
PYTHON ?= python3
BIN := .venv/bin
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: labs test test-slow test-all browser-test bench bench-classic sweep small-world notebooks publish clean

labs: .venv/installed
	$(BIN)/python -m utils labs

# Lint and everything that a change can break in everyday work: six minutes on two cores.
test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ruff format --check --line-length 80 *.ipynb
	$(PYTEST) -m "not slow"

# Whole notebooks, the hub, Colab, killed runs, several processes: what `make test` leaves out.
test-slow: .venv/installed
	$(PYTEST) -m slow

# `make browser-test` adds its part where it has installed a browser.
test-all: test test-slow

# The labs in JupyterLab, and their pages, in Chromium. Screenshots go to out/browser.
browser-test: .venv/installed
	$(BIN)/python -m pip install --quiet playwright
	command -v chromium google-chrome || $(BIN)/playwright install --with-deps chromium
	$(BIN)/python -m pytest tests/browser

# Measures speed, both sides in one run; prints tables.
bench: .venv/installed
	for script in tests/benchmarks/bench_*.py; do echo "$$script"; PYTHONPATH=. $(BIN)/python $$script || exit 1; done

# One PPO step against the classic trainer of trl 0.11.4, which has an environment of its own.
bench-classic: .venv/installed
	$(PYTHON) -m venv .venv-classic
	.venv-classic/bin/python -m pip install --quiet torch==2.13.0 trl==0.11.4 transformers==4.46.3 peft==0.13.2 \
		datasets==3.1.0 accelerate==1.1.1 rich
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_ppo.py --classic .venv-classic/bin/python

# Completes the table of KL prices for Lab 3; without it, trains the small world's T5 105 times. Run Lab 2 first.
sweep: .venv/installed
	$(BIN)/python -m tools.small_world.sweep

# Makes the small world's dialogues and models again, measures them and writes their card: an hour on two cores.
small-world: .venv/installed
	$(BIN)/python -m tools.small_world.build
	$(BIN)/python -m tools.small_world.card

.venv/installed: requirements.txt requirements-colab.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("this Python is %d.%d, and 3.11 or later is \
	needed: name one, as in make PYTHON=python3.12 labs" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt --constraint constraints.txt
	touch $@

# Runs the labs and stores the executed notebooks in the project, as they are read on the web, and their results.
notebooks: labs
	cp out/lab*.ipynb .
	$(MAKE) publish

# Fills in Colab badges and setup cells from pyproject.toml, and docs/results.md from out/.
publish: .venv/installed
	$(BIN)/python -m tools.publish
	$(BIN)/ruff format --quiet --line-length 80 *.ipynb

clean:
	rm -rf .venv .venv-classic out
