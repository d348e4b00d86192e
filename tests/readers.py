"""Processes that ask the live release again and again, as `cbir-ops query` does, and count what they got."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

PAUSE = 0.3  # seconds between two queries, so that the readers leave the machine something


def read_forever(workspace: Path, report: Path, stop: Path) -> None:
    """Query until ``stop`` is there, then write the counts and the first faults into ``report``.

    An answer is wrong where the encoder is not the one that made the table's vectors or not the release's, or where the
    rows are not those of one state of the raw data: eight consecutive numbers.
    """
    from cbir.search import Searcher

    queries, failed, mixed, faults, versions = 0, 0, 0, [], set()
    while not stop.exists():
        try:
            searcher = Searcher.open(workspace)
            hits = searcher.query(text="a red square", image=None, k=50)
            numbers = sorted(int(hit.id.split("/")[1]) for hit in hits)
            prints = {searcher.release.fingerprint, searcher._encoder.fingerprint, searcher._index.fingerprint}
            if len(prints) != 1 or numbers != list(range(numbers[0], numbers[0] + 8)):
                mixed += 1
                faults.append(f"{searcher.release.version} {prints} {numbers}")
            versions.add(searcher.release.version)
        except Exception as error:
            failed += 1
            faults.append(repr(error))
        queries += 1
        time.sleep(PAUSE)
    counts = {"queries": queries, "failed": failed, "mixed": mixed, "faults": faults[:5], "versions": sorted(versions)}
    beside = report.with_suffix(".partial")
    beside.write_text(json.dumps(counts))
    os.replace(beside, report)
