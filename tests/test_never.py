"""What the source never does, looked for in its syntax tree and in its templates."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.source import nodes, tree

PACKAGE = Path(__file__).parents[1] / "src" / "anyclass"
SOURCES = sorted(PACKAGE.rglob("*.py"))

PICKLING = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
CALLS = {"eval", "exec", "os.popen", "os.system", "torch.save", "Markup", "markupsafe.Markup"}
KEYWORDS = {("shell", True), ("verify", False), ("allow_pickle", True), ("weights_only", False)}
KEYWORDS |= {("trust_remote_code", True), ("autoescape", False)}
DECLARATIONS = (
    ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.ClassDef
)
GUARDS = ("TYPE_CHECKING", "__name__ ==")
DEMANDED = {"extractall": ("filter", "data"), "torch.load": ("weights_only", True)}
IN_TEMPLATES = re.compile(r"\|\s*safe\b|autoescape\s+false|<script|javascript:|https?://|\bon\w+=")

NO_TELEMETRY = 'os.environ.update(dict.fromkeys(NO_TELEMETRY, "1"))'
"""The one thing that happens at import: libraries read it when they are imported."""

OWN_SCRIPT = '<script src="page.js" defer></script>'
"""The one script: a file of the package, for the review page."""


@cache
def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def wrong_calls(node: ast.Call) -> Iterator[str]:
    """What is never called, or never called like this."""
    given = {(k.arg, k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
    if called(node) in CALLS:
        yield called(node)
    yield from (f"{key}={value}" for key, value in given & KEYWORDS)
    for name, wanted in DEMANDED.items():
        if called(node).endswith(name) and wanted not in given:
            yield f"{name} without {wanted[0]}={wanted[1]!r}"
    if called(node).startswith("subprocess.") and "'pip'" in ast.unparse(node):
        yield "an installation at run time"


def wrong_statements(node: ast.AST) -> Iterator[str]:
    """Statements that are never written anywhere in the package."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
        yield from {module for module in modules if module.split(".")[0] in PICKLING}
        joined = {f"{getattr(node, 'module', '')}.{alias.name}" for alias in node.names}
        if "numpy.typing" in modules | joined:
            yield "numpy.typing, which jaxtyping cannot read from numpy 2.5 on"
    elif isinstance(node, ast.ExceptHandler):
        body = [ast.unparse(line) for line in node.body]
        if node.type is None or body in (["pass"], ["..."], ["continue"]):
            yield "an except that is bare or silent"
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        if node.attr in {"LOAD_TRUNCATED_IMAGES", "MAX_IMAGE_PIXELS"}:
            yield f"{node.attr} is set"
    elif isinstance(node, ast.Call):
        yield from wrong_calls(node)


def wrong_at_import(node: ast.stmt) -> Iterator[str]:
    """A module only declares: it does nothing at import and changes nothing of others."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    guard = isinstance(node, ast.If) and ast.unparse(node.test).startswith(GUARDS)
    if not (docstring or guard or isinstance(node, DECLARATIONS)):
        if ast.unparse(node) != ast.unparse(ast.parse(NO_TELEMETRY)):
            yield "something happens at import"
    targets = node.targets if isinstance(node, ast.Assign) else []
    if any(not isinstance(target, ast.Name | ast.Tuple) for target in targets):
        yield "a global of another module is changed at import"


def test_source__never_does() -> None:
    wrong = []
    for path in SOURCES:
        found = [(n.lineno, what) for n in nodes(path) for what in wrong_statements(n)]
        found += [(n.lineno, what) for n in tree(path).body for what in wrong_at_import(n)]
        wrong += [f"{path.relative_to(PACKAGE)}:{line}: {what}" for line, what in found]
    assert wrong == []


def test_source__switches_telemetry_off_in_one_place() -> None:
    found = [path.name for path in SOURCES if NO_TELEMETRY in path.read_text("utf-8")]
    assert found == ["__init__.py"]
    switches = re.compile(r"DISABLE_TELEMETRY|DO_NOT_TRACK")
    named = [path.name for path in SOURCES if switches.search(path.read_text("utf-8"))]
    assert named == ["__init__.py"]


FORBIDDEN = r"""
import pickle|from joblib import load|eval("1")|exec("1")|import os; os.system("ls")
import numpy.typing|from numpy import typing|from numpy.typing import NDArray
subprocess.run("ls", shell=True)|subprocess.run([sys.executable, "-m", "pip", "install", "x"])
ImageFile.LOAD_TRUNCATED_IMAGES = True|Image.MAX_IMAGE_PIXELS = None|get(url, verify=False)
archive.extractall(folder)|torch.save(model, path)
torch.load(path)|torch.load(path, weights_only=False)|Markup(text)
try: f()\nexcept OSError: pass|try: f()\nexcept: raise|Environment(autoescape=False)
"""


def test_wrong_statements__sees_each_forbidden_thing() -> None:
    for code in FORBIDDEN.strip().replace("\n", "|").split("|"):
        tree = ast.parse(code.replace("\\n", "\n"))
        assert [what for node in ast.walk(tree) for what in wrong_statements(node)], code


@pytest.mark.parametrize(
    "code", ["torch.set_num_threads(1)", 'os.environ["A"] = "1"', "Image.MAX = 1", "if x:\n    f()"]
)
def test_wrong_at_import__sees_each_effect(code: str) -> None:
    assert list(wrong_at_import(ast.parse(code).body[0]))


REPOSITORY = PACKAGE.parents[1]
SCRIPTS = [path for name in ("benchmarks", "scripts") for path in (REPOSITORY / name).glob("*.py")]
PACKED = {"about", "how", "shape"}


def joined_assignments(node: ast.AST) -> Iterator[str]:
    """Assignments of several unrelated values at once, and tuples packed only to be unpacked."""
    if isinstance(node, ast.Starred) and isinstance(node.value, ast.Name):
        if node.value.id in PACKED and isinstance(node.ctx, ast.Load):
            yield f"*{node.value.id}"
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return
    values = node.value.elts
    names = [ast.unparse(name) for t in node.targets if isinstance(t, ast.Tuple) for name in t.elts]
    swapped = sorted(names) == sorted(ast.unparse(value) for value in values)
    constants = all(_constant(value) for value in values)
    if names and not swapped and not constants:
        yield ast.unparse(node)


def _constant(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return not isinstance(node, ast.List | ast.Dict | ast.Set)


def test_source__one_statement_a_line() -> None:
    wrong = []
    for path in [*SOURCES, *sorted(SCRIPTS)]:
        name = path.relative_to(REPOSITORY).as_posix()
        found = [(n, what) for n in nodes(path) for what in joined_assignments(n)]
        wrong += [f"{name}:{getattr(n, 'lineno', 0)}: {what}" for n, what in found]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "joined"),
    [
        ("a, b = f(x), g(y)", True),
        ("rows, found = list(x), []", True),
        ("self.a, self.b = a, b", True),
        ("f(x, *how)", True),
        ("a, b = b, a", False),
        ("a, b = 1, (2, 3)", False),
        ("a, b = f(x)", False),
        ("f(x, *rest)", False),
    ],
)
def test_joined_assignments__sees_unrelated_values(code: str, joined: bool) -> None:
    assert any(what for n in ast.walk(ast.parse(code)) for what in joined_assignments(n)) == joined


COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def crowded_expressions(node: ast.AST) -> Iterator[str]:
    """Expressions of a statement with more than one comprehension, inside or beside each other."""
    if isinstance(node, ast.expr):
        if sum(isinstance(inner, COMPREHENSIONS) for inner in ast.walk(node)) > 1:
            yield f"{node.lineno}: {ast.unparse(node):.80}"
        return
    for child in ast.iter_child_nodes(node):
        yield from crowded_expressions(child)


def test_source__at_most_one_comprehension_an_expression() -> None:
    wrong = []
    for path in SOURCES:
        found = crowded_expressions(tree(path))
        wrong += [f"{path.relative_to(PACKAGE)}:{what}" for what in found]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "crowded"),
    [
        ("a = [f(x) for x in [y for y in z]]", True),
        ("return_value = {'a': [x for x in z], 'b': [y for y in z]}", True),
        ("if any(x for x in z) and all(y for y in z): f()", True),
        ("def f():\n    return sum(len({y for y in x}) for x in z)", True),
        ("a = [x for y in z for x in y]", False),
        ("for x in [y for y in z]:\n    f([w for w in x])", False),
    ],
)
def test_crowded_expressions__sees_two_comprehensions(code: str, crowded: bool) -> None:
    assert bool(list(crowded_expressions(ast.parse(code)))) == crowded


def test_templates__no_unsafe_markup() -> None:
    for path in sorted(PACKAGE.rglob("*.html")):
        text = path.read_text(encoding="utf-8").replace(OWN_SCRIPT, "")
        found = IN_TEMPLATES.search(text)
        assert found is None, f"{path.name}: {found}"
    for path in SOURCES:
        assert not re.search(r"\|\s*safe\b", path.read_text(encoding="utf-8")), path.name
