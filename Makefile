# What one does here. ARGS reaches the program: make demo ARGS="--port 7900 --no-browser"

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test lint readme screenshots benchmarks train-vae

demo: .venv/app
	$(BIN)/python apps/main.py $(ARGS)

test: .venv/tests
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check

train-vae: .venv/training
	$(BIN)/accelerate launch training/vae_playground.py $(ARGS)

readme: .venv/app  # what it repeats: front matter, figures of the models
	$(BIN)/python readme.py

screenshots: .venv/tests
	$(BIN)/python tests/screenshots.py

benchmarks: .venv/tests
	$(BIN)/python tests/benchmarks/startup.py
	$(BIN)/python tests/benchmarks/drag.py
	$(BIN)/python tests/benchmarks/train_step.py --no-compile

# An empty file stands for each set of packages that is installed; a changed list of pins installs anew.
.venv/app: requirements.txt | .venv/bin/pip
.venv/training: training/requirements.txt .venv/app
.venv/tests: tests/requirements.txt .venv/training
.venv/app .venv/training .venv/tests:
	@echo "Installing $< into .venv; the first time takes a few minutes (torch is large)."
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check -r $<
	@touch $@

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Trugbild needs Python 3.11 or newer; if it has another name: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("Trugbild needs Python 3.11 or newer; $(PYTHON) is %d.%d." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
