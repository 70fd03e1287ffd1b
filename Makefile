# Every target sets up .venv by itself: Python 3.11 or newer, make and a package index are all it takes.
#
#   make demo     draw images, label them from their class names, write a report
#   make test     the test suite
#   make check    style, types, structure; prints the size figures
#   make bench    the benchmarks; those on real images want ANYCLASS_DATA, a folder of sets
#   make docs     the documentation, into site/; broken links are errors
#   make output   run the commands of the guides again, write their output and screenshots into docs/
#   make harden   the slow tests: kills, full disks, hostile files
#   make help-pages   render the help of all commands and tables in docs/, after an option or method has changed
#   make clean    remove .venv and what the tools left behind

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready
DOCS := .venv/docs
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

.PHONY: demo test check bench harden help-pages clean docs output

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

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

output: $(READY)
	$(BIN)/python scripts/refresh_docs.py
	$(BIN)/python scripts/run_notebook.py

harden: $(READY)
	$(PYTEST) -n 2 -m slow

help-pages: $(READY)
	$(BIN)/python -m anyclass.commands.help_pages
	$(BIN)/python scripts/refresh_docs.py --tables

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist site

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "anyclass needs Python 3.11 or newer, and there is none on" \
		"the PATH: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) cannot make virtual environments:" \
		"install its venv package (python3-venv on Debian and Ubuntu)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@
