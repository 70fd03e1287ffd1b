# Every target sets up .venv by itself: Python 3.11 or newer, make and a package index are all it takes.
#
#   make demo     draw images, label them from their class names, write a report
#   make test     the test suite
#   make check    style, types, structure; prints the size figures
#   make bench    the benchmarks; those on real images want ANYCLASS_DATA, a folder of sets
#   make harden   the slow tests: kills, full disks, hostile files
#   make clean    remove .venv and what the tools left behind

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

.PHONY: demo test check bench harden clean

demo: $(READY)
	$(BIN)/anyclass demo

test: $(READY)
	$(PYTEST) -n 2

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) tests/test_structure.py tests/test_never.py
	$(BIN)/python tests/budgets.py

bench: $(READY)
	$(BIN)/python benchmarks/speed.py
	@if [ -n "$$ANYCLASS_DATA" ]; then $(BIN)/python benchmarks/latteclip.py --data "$$ANYCLASS_DATA"; \
	else echo "benchmarks/latteclip.py needs real images: set ANYCLASS_DATA to their folder"; fi

harden: $(READY)
	$(PYTEST) -n 2 -m slow

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "anyclass needs Python 3.11 or newer, and there is none on" \
		"the PATH: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot make virtual environments:" \
		"install its venv package (python3-venv on Debian and Ubuntu)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
