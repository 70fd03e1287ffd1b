"""Progress bars: in a cell of a notebook, on a terminal, or none."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from anyclass.run.bars import in_notebook, progress_bar
from anyclass.run.progress import Progress


def shell(name: str) -> Any:
    """IPython with a shell of this kind."""
    return SimpleNamespace(get_ipython=type(name, (), {"config": {}}))


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", shell("ZMQInteractiveShell"))


@pytest.mark.parametrize(
    ("ipython", "found"),
    [(shell("ZMQInteractiveShell"), True), (shell("TerminalInteractiveShell"), False)]
    + [(SimpleNamespace(get_ipython=lambda: None), False), (None, False)],
)
def test_in_notebook__is_told_by_the_shell(
    ipython: Any, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    if ipython is not None:
        monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert in_notebook() is found


def test_progress_bar__of_a_notebook_needs_no_terminal(
    notebook: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar(total=5, desc="embedding images", mininterval=0) as bar:
        bar.update(2)
        assert (bar.n, bar.total, bar.leave) == (2, 5, False)
    assert "embedding images:  40%" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_progress_bar__there_is_none_without_notebook_and_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress_bar(total=5) is None


def test_progress__moves_the_bar_of_a_notebook(
    notebook: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress() as log:
        for done in (1, 2, 4):
            log(stage="embed", done=done, total=4)
    said = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert said.startswith("\rembedding images:")
    assert "0/4" in said
    assert "4 images" not in said, "no line besides the bar"
