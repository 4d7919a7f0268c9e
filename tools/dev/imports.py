"""Who imports whom: a package's modules by layer, the arrows between its folders, and the circles among them.

Run as `python -m tools.dev.imports [--root DIR] [PACKAGE ...]`, where a package is written as a folder
(`broker/core`); without one it shows `broker/log`, `broker/core`, `broker/server` and `broker` as a whole. DIR is the
work tree that is read, so that another commit's graph can be had from a second work tree. `tests/test_layering.py`
holds the same graph to its rules.

An arrow leads from the module that imports to the module that is imported. There are three kinds: `start` (executed
when the module is imported), `late` (inside a function), `types` (below `if TYPE_CHECKING:`, for annotations alone).
The first two exist at run time. Where two modules are joined by several kinds, the strongest counts, in that order.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOPS = "protocol", "broker", "tools"
START, LATE, TYPES = "start", "late", "types"
KINDS = START, LATE, TYPES
RUN_TIME = frozenset((START, LATE))
SHOWN = "broker/log", "broker/core", "broker/server", "broker"

Arrows = dict[tuple[str, str], str]
"""(who imports, what is imported) -> the kind."""


def imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each (dotted name, kind) that a module's code imports, at any depth. Raises ValueError for a relative import."""
    yield from _names_below(tree, START)


def _names_below(node: ast.AST, kind: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name, kind
        elif isinstance(child, ast.ImportFrom):
            if child.level or child.module is None:
                raise ValueError(f"line {child.lineno}: a relative import")
            for alias in child.names:
                yield f"{child.module}.{alias.name}", kind
        elif isinstance(child, ast.If) and _asks_for_types(child.test):
            for one in child.body:
                yield from _names_below(ast.Module([one], []), TYPES)
            for one in child.orelse:
                yield from _names_below(ast.Module([one], []), kind)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _names_below(child, LATE if kind == START else kind)
        else:
            yield from _names_below(child, kind)


def _asks_for_types(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the project, by its dotted name; a package is its `__init__`."""
    found = {}
    for top in TOPS:
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(root: Path = ROOT) -> Arrows:
    """The arrows between the project's own modules."""
    known = modules(root)
    found: Arrows = {}
    for name, path in known.items():
        for imported, kind in imported_names(ast.parse(path.read_text())):
            target = imported if imported in known else imported.rpartition(".")[0]
            if target not in known or target == name:
                continue
            before = found.get((name, target), TYPES)
            found[name, target] = min(before, kind, key=KINDS.index)
    return found


def circles(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan's algorithm), each sorted, largest first."""
    graph: dict[str, list[str]] = {}
    for source, target in pairs:
        graph.setdefault(source, []).append(target)
        graph.setdefault(target, [])
    return sorted((sorted(one) for one in _components(graph) if len(one) > 1), key=lambda one: (-len(one), one))


def _components(graph: Mapping[str, list[str]]) -> list[list[str]]:
    """Every strongly connected component, each behind those that its members lead to."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = stack.index(name)
            found.append(stack[at:])
            del stack[at:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def layers(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The modules by layer: those of the first import no other, those of each next import some of the layer below.

    The modules of a circle are in one layer.
    """
    graph: dict[str, list[str]] = {name: [] for name in sorted(names)}
    for source, target in pairs:
        graph[source].append(target)
    height: dict[str, int] = {}
    for component in _components(graph):
        below = [height[target] for name in component for target in graph[name] if target in height]
        for name in component:
            height[name] = max(below, default=-1) + 1
    found: list[list[str]] = [[] for _ in range(max(height.values(), default=-1) + 1)]
    for name in graph:
        found[height[name]].append(name)
    return found


def house() -> list[str]:
    """The folders in the order in which the house's table in broker/README.md names them, as dotted names.

    Another commit's graph is held against this commit's table.
    """
    text = (ROOT / "broker" / "README.md").read_text().partition("## The house")[2].partition("\n## ")[0]
    found = []
    for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        found += [
            "broker." + name.strip("/").removesuffix(".py").replace("/", ".") for name in re.findall(r"`(.+?)`", row)
        ]
    return found


def folder_of(module: str, folders: Iterable[str]) -> str | None:
    """The innermost of the folders that a module is in; None if it is in none of them."""
    around = [one for one in folders if module == one or module.startswith(one + ".")]
    return max(around, key=len, default=None)


def inside(found: Arrows, package: str) -> Arrows:
    """The arrows that begin and end in a package."""
    return {
        pair: kind
        for pair, kind in found.items()
        if all(one == package or one.startswith(package + ".") for one in pair)
    }


def between(found: Iterable[tuple[str, str]], where: Callable[[str], str | None]) -> Counter[tuple[str, str]]:
    """How many arrows lead from each folder to each other."""
    counts: Counter[tuple[str, str]] = Counter()
    for source, target in found:
        ends = where(source), where(target)
        if ends[0] is not None and ends[1] is not None and ends[0] != ends[1]:
            counts[ends[0], ends[1]] += 1
    return counts


def backwards(counts: Mapping[tuple[str, str], int], order: list[str]) -> dict[tuple[str, str], int]:
    """Of the arrows between folders those that lead to one that the house's table names later.

    A folder and the one around it have no order: `core/` itself is what its folders share, and what joins them.
    """
    return {
        (source, target): count
        for (source, target), count in counts.items()
        if source in order
        and target in order
        and not f"{source}.".startswith(f"{target}.")
        and not f"{target}.".startswith(f"{source}.")
        and order.index(source) < order.index(target)
    }


def shown(package: str, root: Path = ROOT) -> Iterator[str]:
    """The lines that are printed of a package (dotted)."""
    order = house()
    names = [one for one in modules(root) if one == package or one.startswith(package + ".")]
    all_found = inside(arrows(root), package)
    run_time = [pair for pair, kind in all_found.items() if kind in RUN_TIME]
    kinds = Counter(all_found.values())
    yield f"{package}: {len(names)} modules, {len(all_found)} arrows ({', '.join(f'{kinds[k]} {k}' for k in KINDS)})"
    yield "  layers, by what is imported at run time:"
    for height, layer in enumerate(layers(names, run_time)):
        yield f"    {height:2}  " + " ".join(_short(one, package) for one in layer)
    folders = [package, *(one for one in order if one.startswith(package + "."))]
    counts = between(run_time, lambda one: folder_of(one, folders))
    for_types = between(all_found.keys() - set(run_time), lambda one: folder_of(one, folders))
    wrong = backwards(counts, order)
    wrong_types = backwards(for_types, order)
    total = f"{counts.total()} at run time, {for_types.total()} for types"
    yield f"  between folders: {total}; backwards {sum(wrong.values())} and {sum(wrong_types.values())}"
    for source, target in sorted(counts.keys() | for_types.keys()):
        pair = source, target
        mark = "  backwards" if pair in wrong or pair in wrong_types else ""
        arrow = f"{_short(source, package)} -> {_short(target, package)}"
        yield f"    {arrow:32} {counts[pair]:3} +{for_types[pair]}{mark}"
    for source, target in sorted(all_found):
        pair = folder_of(source, folders) or "", folder_of(target, folders) or ""
        if pair in wrong and all_found[source, target] in RUN_TIME:
            yield f"    backwards: {_short(source, package)} -> {_short(target, package)}"
    for title, pairs in (("at run time", run_time), ("with imports for types", list(all_found))):
        found = circles(pairs)
        yield f"  circles {title}: {len(found)}"
        for circle in found:
            yield f"    {len(circle):2}  " + " ".join(_short(one, package) for one in circle)


def _short(module: str, package: str) -> str:
    return module.removeprefix(package + ".") if module != package else "(itself)"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.dev.imports", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the work tree to read (default: this one)")
    parser.add_argument("packages", nargs="*", default=SHOWN, metavar="PACKAGE", help="such as broker/core")
    given = parser.parse_args()
    for package in given.packages:
        print(*shown(package.strip("/").replace("/", "."), given.root), sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
