"""The shape of the source: who imports whom, what is public, what CONTRIBUTING.md prints."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from tests.source import tree

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "anyclass"
SOURCES = sorted(PACKAGE.rglob("*.py"))

LAYERS = "errors | files log rng | distributed | data | backbone estimators | features | \
captioning training | classifier | methods run | auditing bulk naming report exporting | review | \
commands | api | cli"
"""What the package may import from itself: each layer those to its left, and its own folder."""
ANY_METHOD = "src/anyclass/methods/METHOD.py"
"""The line of the tree that stands for the files of all methods."""
THROUGH_METHODS = {
    "METHODS",
    "Method",
    "Situation",
    "Workload",
    "suggest",
}  # all that commands may know of the methods
BINARY = {".gif", ".jpg", ".parquet", ".png", ".pyc", ".safetensors", ".webp"}
MACHINE = re.compile(
    r"(?<![\w.}])/(?:work|root)/\w|--(?:extra-)?index-url|--hash=|artifactory|devpi|"
    r"files\.pythonhosted\.|\bpypi\.org"
)


class Import(NamedTuple):
    """One import inside the package: the module, the names taken from it, whether in a function."""

    module: tuple[str, ...]
    names: tuple[str, ...]
    inner: bool


def home(path: Path) -> str:
    """The row of the import table: the file's stem, or the top folder it lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules_of(node: ast.AST, path: Path) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The package's own modules that one import statement names, without the leading `anyclass`."""
    here = ("anyclass", *path.relative_to(PACKAGE).parent.parts)
    if isinstance(node, ast.Import):
        found = [(tuple(alias.name.split(".")), ()) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = here[: len(here) - node.level + 1] if node.level else ()
        module = (*base, *(node.module.split(".") if node.module else ()))
        names = tuple(alias.name for alias in node.names)
        bare = module == ("anyclass",)  # from anyclass import data
        found = [((*module, name), ()) for name in names] if bare else [(module, names)]
    else:
        return []
    return [(module[1:], names) for module, names in found if module[0] == "anyclass"]


@cache
def imports(path: Path) -> list[Import]:
    """Every import of the package's own modules; what only a type checker reads is left out."""
    found: list[Import] = []

    def visit(node: ast.AST, inner: bool) -> None:
        if isinstance(node, ast.expr):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        found.extend(Import(*pair, inner) for pair in modules_of(node, path))
        inner = inner or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(tree(path), inner=False)
    return [item for item in found if item.module and not item.module[0].startswith("__")]


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def test_imports__go_down_the_layers() -> None:
    below = set[str]()
    allowed = {"__init__": {"api", "commands", "backbone", "classifier", "data", "errors"}}
    allowed["__main__"] = {"cli"}
    for layer in LAYERS.split("|"):
        allowed |= {name: below | {name} for name in layer.split()}
        below |= set(layer.split())
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {item.module[0]}"
        for path in SOURCES
        for item in imports(path)
        if item.module[0] not in allowed[home(path)]
    ]
    assert wrong == []


def test_imports__cli_waits_for_the_command() -> None:
    early = [i for i in imports(PACKAGE / "cli.py") if not i.inner and i.module != ("errors",)]
    assert early == []


def test_imports__methods_are_known_through_their_table_alone() -> None:
    for path in [path for path in SOURCES if home(path) == "commands"]:
        for item in imports(path):
            if item.module[0] == "methods":
                assert item.module == ("methods",)
                assert set(item.names) <= THROUGH_METHODS


def test_imports__methods_do_not_inherit_from_methods() -> None:
    for path in [path for path in SOURCES if home(path) == "methods"]:
        others = {n for i in imports(path) if i.module[0] == "methods" for n in i.names}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                assert not {ast.unparse(base) for base in node.bases} & others, where(path, node)


def test_imports__never_in_a_circle() -> None:
    files = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in SOURCES}
    files = {k[:-1] if k[-1] == "__init__" else k: path for k, path in files.items()}
    edges = {}
    for name, path in files.items():
        found = [i for i in imports(path) if not i.inner]
        targets = {i.module for i in found} | {(*i.module, n) for i in found for n in i.names}
        edges[name] = {target for target in targets if target in files and target != name}
    TopologicalSorter(edges).prepare()


def printed_tree() -> list[str]:
    """The paths in the marked block of CONTRIBUTING.md; a folder ends in a slash."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = page.split("<!-- tree -->")[1].split("<!-- end of tree -->")[0]
    paths = list[str]()
    trail: list[str] = []
    for line in block.splitlines():
        if entry := re.match(r"((?:│   |    )*)[├└]── (\S+)(?:  +(\S.*))?$", line):
            indent, name, about = entry.groups()
            assert about or name.endswith("/"), f"{name} has no half line"
            trail = [*trail[: len(indent) // 4], name]
            paths.append("".join(trail))
    return paths


def method_files() -> set[str]:
    """Paths of the methods' files, which the tree shows as one line."""
    from anyclass.methods import METHODS

    modules = (kind.__module__.replace(".", "/") for kind in METHODS.values())
    return {f"src/{module}.py" for module in modules}


def test_contributing__prints_the_tree_of_the_disk() -> None:
    tree = printed_tree()
    assert ANY_METHOD in tree
    printed = set(tree) - {ANY_METHOD}
    assert sorted(tree) == sorted({*tree}), "CONTRIBUTING.md prints a path twice"
    files = (p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    on_disk = {path.relative_to(ROOT).as_posix() for path in files} - method_files()
    on_disk |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    sections = ("src/anyclass/", "docs/")
    inside = {p for p in printed if p.startswith(sections) and not p.endswith("/")}
    assert inside - on_disk == set(), "CONTRIBUTING.md prints files that do not exist"
    assert on_disk - inside == set(), "CONTRIBUTING.md does not print these files"
    assert {path for path in printed if not (ROOT / path).exists()} == set()


def test_public_names__are_sorted_and_importable() -> None:
    import anyclass

    assert anyclass.__all__ == sorted(anyclass.__all__)
    assert [name for name in anyclass.__all__ if getattr(anyclass, name, None) is None] == []


def test_methods__each_has_its_page_and_its_test() -> None:
    from anyclass.methods import METHODS

    stems = {method.__module__.rpartition(".")[2] for method in METHODS.values()}
    assert {key.replace("-", "_") for key in METHODS} == stems
    headings = set()
    for stem in sorted(stems):
        assert (ROOT / "tests" / "methods" / f"test_{stem}.py").is_file()
        page = (ROOT / "docs" / "methods" / f"{stem}.md").read_text(encoding="utf-8")
        headings.add(tuple(re.findall(r"^## .+$", page, flags=re.MULTILINE)))
    assert len(headings) == 1, "the pages of docs/methods have different headings"


def committed() -> Iterator[Path]:
    """Text files of the repository, found without git so that a copy is tested as well."""
    for folder in (".ci", "src", "tests", "docs", "benchmarks", "scripts", "examples"):
        found = (ROOT / folder).rglob("*")
        yield from (p for p in found if p.is_file() and p.suffix not in BINARY)
    yield from (p for p in ROOT.iterdir() if p.is_file() and p.name != ".git")  # of a worktree


def test_committed_files__name_no_machine_and_no_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in sorted(committed())
        if path != Path(__file__)
        for match in MACHINE.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_cli__leaves_the_heavy_libraries_alone() -> None:
    heavy = "{'torch', 'torchvision', 'open_clip', 'transformers', 'sklearn', 'pyarrow', 'onnx'}"
    code = f"import sys, anyclass.cli; print(sorted({heavy} & set(sys.modules)))"
    assert run_python(code) == "[]"


def test_import_anyclass__opens_nothing_of_its_own_and_switches_telemetry_off() -> None:
    """Each variable counts: without the third, ONNX Runtime speaks to its maker."""
    code = """if True:
        import os, sys
        switches = ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY")
        for name in switches:
            os.environ.pop(name, None)
        seen = []
        sys.addaudithook(lambda event, args: seen.append((event, str(args[0]))))
        import anyclass
        opened = [a for e, a in seen if e == "open" and not a.endswith((".py", ".pyc"))]
        print(opened, [e for e, _ in seen if e.startswith(("socket.", "subprocess."))])
        print(*(os.environ.get(name) for name in switches))
    """
    assert run_python(code) == "[] []\n1 1 1"
