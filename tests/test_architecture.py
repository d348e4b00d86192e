"""The layers hold, each outside system has one file, and DVC knows every module of a stage."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LAYERS = {
    0: {"errors", "locks", "progress", "scratch", "records", "params", "similarity", "workspace"},
    1: {
        "known_files",
        "raw_lists",
        "clusters",
        "images",
        "texts",
        "history",
        "ranks",
        "relevance",
        "losses",
        "metric_losses",
        "statistics",
    },
    2: {
        "classes",
        "kernel",
        "rows",
        "conditions",
        "towers",
        "fusion",
        "projections",
        "late",
        "encoder",
        "feature_store",
        "copies",
        "features",
        "fusing",
        "start",
        "fit",
        "objective",
        "held_out",
        "label_names",
    }
    | {"augment", "two_towers", "finetune", "launch", "tune_towers"}
    | {
        "baselines",
        "expectations",
        "gallery",
        "golden",
        "query_sets",
        "examples",
        "scoreboard",
        "answers",
        "slices",
        "classical",
        "rivals",
    },
    3: {"ingest", "validate", "split", "train", "embed", "evaluate", "sources", "registry", "index"}
    | {"git", "outputs", "fold_store", "search_space", "study"},
    4: {"outside", "search", "report", "evaluation_page", "gate", "contest", "index_check", "smoke"}
    | {"gate_report", "override", "promotion", "retention", "releases", "lineage", "card", "card_page"}
    | {"crossval", "changes", "refresh", "printing"},
    5: {"cli", "demo", "data_commands", "release_commands", "experiment_commands"},
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}
STAGES = {"ingest", "validate", "split", "train", "embed", "evaluate"}
MODULES = sorted((ROOT / "cbir").rglob("*.py"))


def imports_of(path: Path, *, root: Path = ROOT) -> set[str]:
    """Dotted names that a file imports: of ``from a import b`` both ``a`` and ``a.b``, relative ones made absolute."""
    package = path.relative_to(root).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def find_files(name: str, *, root: Path) -> set[Path]:
    """Files that importing the dotted ``name`` runs: the module's and those of every package above it."""
    parts = name.split(".")
    heads = [root.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    ways = [way for head in heads for way in (head.with_suffix(".py"), head / "__init__.py")]
    return {way for way in ways if way.exists()}


def close_imports(path: Path, *, root: Path) -> set[Path]:
    """``path`` and every file of the package ``cbir`` that running it imports, at any depth, inside functions too."""
    needed: set[Path] = set()
    todo = {path} | find_files(".".join(path.relative_to(root).with_suffix("").parts), root=root)
    while todo:
        file = todo.pop()
        needed.add(file)
        names = {name for name in imports_of(file, root=root) if name.split(".")[0] == "cbir"}
        todo |= {found for name in names for found in find_files(name, root=root)} - needed
    return needed


def own_imports(path: Path) -> set[str]:
    found = {file for name in imports_of(path) if name.split(".")[0] == "cbir" for file in find_files(name, root=ROOT)}
    return {name_of(file) for file in found} - {"__init__"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "cbir").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_lower_layer_never_imports_a_higher_one_and_stages_never_each_other(path: Path) -> None:
    name = name_of(path)
    if name == "__init__":
        assert not own_imports(path)
        return
    for other in own_imports(path) - {name}:
        assert LAYER[other] <= LAYER[name], f"{name} imports {other}"
        assert not (name in STAGES and other in STAGES), f"stage {name} imports stage {other}"


@pytest.mark.parametrize(
    ("package", "owner"),
    [
        ("mlflow", "registry"),
        ("lancedb", "index"),
        ("great_expectations", "expectations"),
        ("optuna", "study"),
        ("prefect", None),
    ],
)
def test_each_outside_system_is_imported_in_one_file(package: str, owner: str | None) -> None:
    users = {name_of(p) for p in MODULES if any(name.split(".")[0] == package for name in imports_of(p))}
    assert users <= {owner}


def miss_deps(stage: str, deps: list[str], *, root: Path) -> set[str]:
    """Files of the stage's import closure that no entry of ``deps``, a file or a folder, covers; empty files aside."""
    needed = close_imports(root / "cbir" / f"{stage}.py", root=root)
    covered = [root / dep for dep in deps]
    return {
        path.relative_to(root).as_posix()
        for path in needed
        if path.read_text().strip() and not any(dep == path or dep in path.parents for dep in covered)
    }


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_module_a_stage_needs_is_among_its_deps(stage: str) -> None:
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    assert miss_deps(stage, deps, root=ROOT) == set()


@pytest.mark.parametrize(
    "line",
    [
        "import cbir.deep.leaf",
        "from cbir.deep.leaf import x",
        "from cbir.deep import leaf",
        "from cbir import deep",
        "from .deep import leaf",
        "from . import deep",
        "def f():\n    from cbir import deep",
    ],
)
def test_the_closure_follows_every_way_of_importing(line: str, tmp_path: Path) -> None:
    (tmp_path / "cbir" / "deep").mkdir(parents=True)
    (tmp_path / "cbir" / "__init__.py").touch()
    (tmp_path / "cbir" / "stage.py").write_text(line)
    (tmp_path / "cbir" / "deep" / "__init__.py").write_text("from .leaf import x")
    (tmp_path / "cbir" / "deep" / "leaf.py").write_text("import os\nfrom cbir import bottom\nx = 1")
    (tmp_path / "cbir" / "bottom.py").write_text("y = 2")
    (tmp_path / "cbir" / "other.py").write_text("z = 3")
    expected = {"cbir/stage.py", "cbir/deep/__init__.py", "cbir/deep/leaf.py", "cbir/bottom.py"}
    assert miss_deps("stage", [], root=tmp_path) == expected
    assert miss_deps("stage", ["cbir/stage.py", "cbir/deep"], root=tmp_path) == {"cbir/bottom.py"}
    assert miss_deps("stage", sorted(expected), root=tmp_path) == set()
