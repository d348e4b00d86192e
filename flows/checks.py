"""What is looked at before a run does anything: that every section of params.yaml holds what it may."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from cbir.params import SECTIONS, load_section


@task(name="check the parameters", task_run_name="check the parameters")
def check_params(workspace: str) -> None:
    """Load every section: one that is wrong would else be noticed after the training, or, with nothing to do, never.

    Raises:
        ParamsError: the file is missing, or a key or value is not one.
    """
    for name, section in SECTIONS.items():
        load_section(Path(workspace) / "params.yaml", name, section)
