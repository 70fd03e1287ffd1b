"""Run the notebook in examples/ and keep what it shows, also as a picture in docs/.

    python scripts/run_notebook.py [--chromium PROGRAM]

It works in a temporary folder. Progress and times are left out, so that a second run changes
nothing but results.
"""

import argparse
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from screenshots import of_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
PICTURE = ROOT / "docs" / "images" / "notebook.png"
SIZE = (900, 2100)
"""Pixels of the picture."""
SHOWN = 5
"""Number of cells of code in it: a run, and what it predicts."""


def main() -> None:
    """Run all cells, write the notebook and its picture."""
    parser = argparse.ArgumentParser(description="Run the notebook.")
    parser.add_argument("--chromium", default="chromium", help="the browser for the picture")
    arguments = parser.parse_args()
    page = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(page, timeout=900, resources={"metadata": {"path": folder}})
        client.execute(env=dict(os.environ))
    for cell in page.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    page.metadata.pop("language_info", None)
    nbformat.write(page, NOTEBOOK)
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    of_notebook(code[:SHOWN], SIZE, PICTURE, arguments.chromium)


if __name__ == "__main__":
    main()
