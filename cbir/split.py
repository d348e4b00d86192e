"""Which items train, validate and test; groups and near-duplicate pictures never straddle.

Shapes: N items, M test items, C clusters, L labels.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from cbir.clusters import connect_rows, find_equals, find_near, mark_near, parse_hashes
from cbir.errors import CbirError, SplitError
from cbir.params import SplitParams
from cbir.params.file import load_section
from cbir.records import SPLIT_SCHEMA, SPLITS, read_items, read_table, replace_folder, write_json, write_table

KEPT = "split.parquet"


def split_items(ingested: Path, out: Path, *, params: SplitParams, kept: Path | None = None) -> dict[str, int]:
    """Assign every item to train, validation or test, and return the count of each.

    Items that share a group, a file hash or a near-equal perceptual hash are one cluster and stay together.
    Clusters go, largest first, where most of their labels are still missing (after Sechidis et al. 2011, On the
    stratification of multi-label data). A split that came with the data is kept, and its cluster takes it; clusters
    whose given splits differ are counted as ``leaking_clusters``, and test items with a near-equal picture among those
    that are learnt from, of training or of validation, as ``test_items_near_training``.

    ``kept`` is a folder with an earlier split, or without one. Items stay where it has them, so that what was trained
    on is not tested on later, but for a split that comes with the data; new clusters fill up what is missing. A new
    picture that joins kept clusters of several splits takes all of them where most was learnt from: training, then
    validation.

    Raises:
        SplitError: there are too few clusters for a test set.
    """
    items = read_items(ingested, columns=["id", "group", "sha256", "phash", "labels", "given_split"]).to_pydict()
    given = items["given_split"]
    if not given:
        raise SplitError("There are no items to split; import a source first.")
    check_fractions(params)
    if unknown := {name for name in given if name} - set(SPLITS):
        raise SplitError(f"The data names the splits {sorted(unknown)}; use {', '.join(SPLITS)}.")
    cluster_N = cluster_items(items["group"], items["sha256"], items["phash"], distance=params.phash_distance)
    fixed, leaking = _fix_clusters(cluster_N, given)
    if kept is not None and params.keep:
        fixed = _keep_clusters(cluster_N, items["id"], kept=kept) | fixed
    where_N = assign_clusters(cluster_N, items["labels"], params=params, fixed=fixed)
    where_N = np.array([name or where for name, where in zip(given, where_N, strict=True)])
    counts = {name: int((where_N == name).sum()) for name in SPLITS}
    if counts["test"] == 0 or counts["train"] == 0:
        raise SplitError(
            f"{len(where_N)} items give the splits {counts}; import more, raise split.test, or lower "
            "split.phash_distance."
        )
    rows = {"id": items["id"], "split": list(where_N), "cluster": [str(c) for c in cluster_N]}
    largest = int(np.bincount(cluster_N).max())
    figures = {"clusters": int(cluster_N.max()) + 1, "largest_cluster": largest, "leaking_clusters": leaking}
    phash_N = parse_hashes(items["phash"])
    learnt_N = where_N != "test"  # the last fit takes the validation items too
    near_M = mark_near(phash_N[~learnt_N], phash_N[learnt_N], distance=params.phash_distance)
    with replace_folder(out) as folder:
        write_table(folder / "split.parquet", pa.Table.from_pydict(rows, schema=SPLIT_SCHEMA))
        write_json(folder / "split.json", counts | figures | {"test_items_near_training": int(near_M.sum())})
    return counts


def check_fractions(params: SplitParams) -> None:
    """Refuse fractions that leave nothing to train on.

    Raises:
        SplitError: they do.
    """
    if params.validation + params.test >= 1:
        raise SplitError("split.validation and split.test leave nothing for training; lower them in params.yaml.")


def cluster_items(groups: list[str], hashes: list[str], phashes: list[str], *, distance: int) -> np.ndarray:
    """Cluster number of each item, int (N,), numbered in order of first appearance.

    Items are joined by an equal group, file hash or perceptual hash, or one within ``distance`` bits, and so on
    along the chain: flat drawings can chain far, and the whole chain stays together.
    """
    near = find_near(parse_hashes(phashes), distance=distance)
    return connect_rows(*map(find_equals, (groups, hashes, phashes)), near, count=len(groups))


def _fix_clusters(cluster_N: np.ndarray, given: list[str | None]) -> tuple[dict[int, str], int]:
    votes: dict[int, Counter[str]] = {}
    for cluster, name in zip(cluster_N, given, strict=True):
        if name:
            votes.setdefault(int(cluster), Counter())[name] += 1
    fixed = {cluster: count.most_common(1)[0][0] for cluster, count in votes.items()}
    return fixed, sum(len(count) > 1 for count in votes.values())


def _keep_clusters(cluster_N: np.ndarray, ids: list[str], *, kept: Path) -> dict[int, str]:
    """Split of each cluster with an item in the earlier split: of several, the one nearest to training."""
    path = kept / KEPT
    if not path.exists():
        return {}
    rows = read_table(path, made_by="split")
    before = dict(zip(rows["id"].to_pylist(), rows["split"].to_pylist(), strict=True))
    found: dict[int, str] = {}
    for cluster, id_ in zip(cluster_N.tolist(), ids, strict=True):
        if id_ in before:
            found[cluster] = min(found.get(cluster, before[id_]), before[id_], key=SPLITS.index)
    return found


def assign_clusters(
    cluster_N: np.ndarray, labels: list[list[str]], *, params: SplitParams, fixed: dict[int, str] | None = None
) -> np.ndarray:
    """Split name of each item, str (N,): whole clusters, balanced over labels, decided by ``params.seed``.

    Clusters in ``fixed`` go first, each to the split it names.
    """
    share = {"train": 1 - params.validation - params.test, "validation": params.validation, "test": params.test}
    return deal_clusters(cluster_N, labels, share=share, seed=params.seed, fixed=fixed or {})


def deal_clusters(
    cluster_N: np.ndarray,
    labels: list[list[str]],
    *,
    share: Mapping[str, float],
    seed: int,
    fixed: Mapping[int, str],
) -> np.ndarray:
    """Name of each item's part, str (N,), of parts that are to have each its ``share`` of the items and labels."""
    totals = Counter(label for row in labels for label in (row or [""]))
    want = {name: {label: n * part for label, n in totals.items()} for name, part in share.items()}
    room = {name: part * len(cluster_N) for name, part in share.items()}
    members: dict[int, list[int]] = {}
    for n, cluster in enumerate(cluster_N):
        members.setdefault(int(cluster), []).append(n)
    order = np.random.default_rng(seed).permutation(sorted(members))
    where_N = np.empty(len(cluster_N), dtype="<U10")
    for cluster in sorted(order, key=lambda c: (c not in fixed, -len(members[c]))):
        rows = members[cluster]
        count = Counter(label for n in rows for label in (labels[n] or [""]))
        allowed = [name for name in share if share[name] > 0]
        name = fixed.get(int(cluster)) or max(
            allowed, key=lambda s: (sum(want[s][x] * k for x, k in count.items()), room[s])
        )
        where_N[rows] = name
        room[name] -= len(rows)
        for label, k in count.items():
            want[name][label] -= k
    return where_N


def main() -> None:
    """Run the stage: ``python -m cbir.split INGESTED KEPT OUT``."""
    ingested, kept, out = map(Path, sys.argv[1:4])
    try:
        counts = split_items(ingested, out, params=load_section(Path("params.yaml"), "split", SplitParams), kept=kept)
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(counts)


if __name__ == "__main__":
    main()
