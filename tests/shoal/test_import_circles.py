"""No module of the project imports itself by way of others."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("shoal", "router", "shard_server", "encoder_service", "deploy", "bench")


def modules(root):
    """By name, the source of each module; what protoc made is left out."""
    paths = (path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
        if "_pb2" not in path.name
    }


def imported(path, known):
    """The modules that this one names, inside functions and for types alone too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & known
            names |= inside or {node.module}
    return names & known


def circle(root):
    """The modules of one circle; none where there is no circle."""
    found = modules(root)
    graph = {name: imported(path, found.keys()) - {name} for name, path in found.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as failure:
        return failure.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    """Who reads one must be able to read it without the other; types count like all else."""
    assert len(modules(ROOT)) > 250
    assert circle(ROOT) == []


@pytest.mark.parametrize(
    "back", ["import router.a", "from router import a", "def f():\n    from router.a import x"]
)
def test_a_circle_is_found(tmp_path, back):
    """What checks the sources must itself be able to fail."""
    folder = tmp_path / "router"
    folder.mkdir()
    (folder / "a.py").write_text("from router.b import y\n")
    (folder / "b.py").write_text(back + "\n")
    assert set(circle(tmp_path)) == {"router.a", "router.b"}
