"""How fast the parts are on this machine: all by ``make bench``, some by ``python -m benchmarks embedding step``."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import torch

from benchmarks import encoder, finetuning, queries, scores

PARTS: dict[str, Callable[[], list[list[str]]]] = {
    "embedding": encoder.measure_embedding,
    "step": encoder.measure_step,
    "towers": finetuning.measure_step_of_towers,
    "epochs": finetuning.measure_epochs_of_towers,
    "metrics": scores.measure_metrics,
    "query": queries.measure_queries,
}


def describe_machine() -> str:
    """Processor, cores and versions that figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__} with {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")
    )


def main() -> None:
    """Measure the parts named on the command line, all of them by default; print one Markdown table."""
    chosen = sys.argv[1:] or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        sys.exit(f"error: no benchmark {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    rows = []
    for name in chosen:
        print(f"measuring {name}", file=sys.stderr)
        rows += PARTS[name]()
    print(f"{datetime.now(UTC):%Y-%m-%d}. Machine: {describe_machine()}.")
    print(f"Command: `python -m benchmarks {' '.join(chosen)}`. Load average at the end: {os.getloadavg()[0]:.1f}.\n")
    print("| what | ours | compared with | how measured |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
