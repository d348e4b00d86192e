"""The layers hold, each outside system has one file, and DVC knows every module of a stage."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LAYERS = {
    0: {"errors", "records", "params"},
    1: {"images", "texts", "metrics", "losses"},
    2: {"towers", "fusion", "encoder", "features", "expectations"},
    3: {"ingest", "validate", "split", "train", "embed", "evaluate", "sources", "registry", "index"},
    4: {"search", "report", "evaluation_page"},
    5: {"cli", "demo"},
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}
STAGES = {"ingest", "validate", "split", "train", "embed", "evaluate"}
MODULES = sorted(
    path for path in (ROOT / "cbir").rglob("*.py") if path.parent != ROOT / "cbir" or path.stem != "__init__"
)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def own_imports(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("cbir.")}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "cbir").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_lower_layer_never_imports_a_higher_one_and_stages_never_each_other(path: Path) -> None:
    name = name_of(path)
    for other in own_imports(path) - {name}:
        assert LAYER[other] <= LAYER[name], f"{name} imports {other}"
        assert not (name in STAGES and other in STAGES), f"stage {name} imports stage {other}"


@pytest.mark.parametrize(
    ("package", "owner"),
    [("mlflow", "registry"), ("lancedb", "index"), ("great_expectations", "expectations"), ("prefect", None)],
)
def test_each_outside_system_is_imported_in_one_file(package: str, owner: str | None) -> None:
    users = {name_of(p) for p in MODULES if any(name.split(".")[0] == package for name in imports_of(p))}
    assert users <= {owner}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_module_a_stage_needs_is_among_its_deps(stage: str) -> None:
    needed, todo = set(), {stage}
    while todo:
        name = todo.pop()
        needed.add(f"cbir/{name}.py")
        todo |= {other for other in own_imports(ROOT / "cbir" / f"{name}.py") if f"cbir/{other}.py" not in needed}
    deps = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"])
    assert needed <= deps
