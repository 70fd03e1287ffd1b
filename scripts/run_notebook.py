"""Run the notebook in examples/ and keep what it shows: `python scripts/run_notebook.py`.

It works in a temporary folder. Progress and times are left out, so that a second run changes
nothing but results.
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def main() -> None:
    """Run all cells and write the notebook."""
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


if __name__ == "__main__":
    main()
