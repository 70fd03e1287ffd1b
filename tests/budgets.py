"""The size figures of the package, for `python tests/budgets.py`: a mirror, not a gate."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "src" / "anyclass"
FILE_LINES = 300
METHOD_LINES = 250
BLOCKS = ast.If | ast.For | ast.While | ast.With | ast.Try | ast.Match


class Function(NamedTuple):
    """One function: where it is, its lines, how deep its blocks nest."""

    place: str
    lines: int
    depth: int


def depth(node: ast.AST) -> int:
    """Blocks within blocks; an `elif` stands beside its `if`, and an inner function starts anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        beside = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
        deepest = max(deepest, depth(child) + (isinstance(child, BLOCKS) and not beside))
    return deepest


def functions() -> Iterator[Function]:
    """Every function and method of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                place = f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno} {node.name}"
                yield Function(place, (node.end_lineno or 0) - node.lineno + 1, depth(node))


def budget(name: str) -> int:
    """How many lines the file may have."""
    return METHOD_LINES if name.startswith("methods/") else FILE_LINES


def main() -> None:
    """Print each figure beside its aim, then whatever lies beyond."""
    found = list(functions())
    lines = sorted(function.lines for function in found)
    files = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    ninety = lines[min(len(lines) - 1, round(0.9 * len(lines)))]
    print(f"package     {len(files)} files, {sum(files.values())} lines, {len(lines)} functions")
    print(f"functions   median {statistics.median(lines):.0f} lines (aim 10)", end=", ")
    print(f"90 % within {ninety} (aim 30), longest {lines[-1]} (aim 60)")
    print(f"nesting     deepest {max(function.depth for function in found)} (aim 3)")
    print(f"files       longest {max(files.values())} lines (aim {FILE_LINES})")
    beyond = [f"{f.place}: {f.lines} lines" for f in found if f.lines > 60]
    beyond += [f"{f.place}: nesting {f.depth}" for f in found if f.depth > 3]
    beyond += [f"{n}: {size} lines of {budget(n)}" for n, size in files.items() if size > budget(n)]
    for line in beyond:
        print(f"beyond      {line}")


if __name__ == "__main__":
    main()
