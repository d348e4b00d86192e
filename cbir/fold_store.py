"""What the folds of a cross-validation scored, kept fold by fold, so that one that was stopped goes on where it was.

Shapes: Q queries.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cbir.errors import WorkspaceError
from cbir.locks import LOCKS, hold_lock
from cbir.outputs import hash_code
from cbir.params.file import read_document
from cbir.records import write_table
from cbir.scratch import make_scratch

STORE = Path(".cbir/crossval")  # in the workspace
SECTIONS = ("split", "towers", "finetune", "train", "embed", "evaluate")  # of params.yaml, that figures hang on
SCHEMA = pa.schema([("kind", pa.string()), ("name", pa.string()), ("value", pa.float64()), ("cluster", pa.string())])
Scores = dict[str, tuple[np.ndarray, np.ndarray]]  # value_Q and cluster_Q of each figure


class FoldStore:
    """One cross-validation's folder: the scores of the folds that are done, and room to work in."""

    def __init__(self, folder: Path, *, work: Path) -> None:
        """``work``: a folder for the fold that is being worked on; what lies in it is not kept."""
        self._folder = folder
        self.work = work

    def read(self, fold: int) -> dict[str, Scores] | None:
        """The scores of a fold by their kind, or None where it is not done."""
        path = self._name(fold)
        if not path.exists():
            return None
        found: dict[str, Scores] = defaultdict(dict)  # a kind may have no figures
        for (kind, name), rows in pq.read_table(path).to_pandas().groupby(["kind", "name"], sort=False):
            found[kind][name] = (rows["value"].to_numpy(), rows["cluster"].to_numpy())
        return found

    def write(self, fold: int, scores: dict[str, Scores]) -> None:
        """Keep the scores of a fold."""
        rows = [
            {"kind": kind, "name": name, "value": float(value), "cluster": str(cluster)}
            for kind, figures in scores.items()
            for name, (value_Q, cluster_Q) in figures.items()
            for value, cluster in zip(value_Q, cluster_Q, strict=True)
        ]
        write_table(self._name(fold), pa.Table.from_pylist(rows, schema=SCHEMA))

    def _name(self, fold: int) -> Path:
        return self._folder / f"fold-{fold + 1}.parquet"


@contextmanager
def open_folds(workspace: Path, *, key: str) -> Iterator[FoldStore]:
    """The store of the cross-validation ``key``; that of any other is dropped.

    Raises:
        WorkspaceError: another cross-validation runs in the workspace.
    """
    busy = WorkspaceError("Another `cbir-ops crossval` is running here; wait for it, or stop it.")
    with hold_lock(workspace / LOCKS / "crossval.lock", busy=busy):
        for other in (workspace / STORE).glob("*"):
            if other.name != key:
                shutil.rmtree(other, ignore_errors=True)
        with make_scratch(workspace) as work:  # one's own: after a kill the training that was running may go on in its
            yield FoldStore(workspace / STORE / key, work=work)


def name_folds(workspace: Path, *, ingested: Path, folds: int) -> str:
    """Name of a cross-validation: a hash of all that its figures hang on, the code of the stages included."""
    params = read_document(workspace / "params.yaml")
    facts = {
        "folds": folds,
        "params": {name: params.get(name) for name in SECTIONS},
        "code": [hash_code(workspace, stage) for stage in ("split", "train", "evaluate")],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in sorted(path for path in (workspace / ingested).glob("*") if path.is_file()):  # it may not be there
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
