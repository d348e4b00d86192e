"""How the trials of a search look in MLflow: a run each, below one run of the search."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param

from cbir.registry.metric_names import name_metric
from cbir.registry.tracking import Tracking

STUDY = "study"


class TrialRuns:
    """The runs of the search ``study`` in the experiment ``name``; done again, its parent run is there once."""

    def __init__(self, workspace: Path, *, name: str, study: str) -> None:
        """Open them.

        Raises:
            RegistryError: MLflow does not answer.
        """
        tracking = Tracking(workspace)
        self._client = tracking.client
        self._experiment = tracking.find_or_create_experiment(name)
        self._parent = self._find_or_create_parent(study)
        self._client.update_run(self._parent, status="RUNNING")

    def begin(self, number: int, values: Mapping[str, Any]) -> str:
        """Open the run of a trial and return its id."""
        tags = {"mlflow.parentRunId": self._parent}
        run = self._client.create_run(self._experiment, run_name=f"trial {number}", tags=tags)
        self._client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in values.items()])
        return str(run.info.run_id)

    def end(self, run_id: str, *, figures: Mapping[str, float]) -> None:
        """Close the run of a trial that is done."""
        stamp = int(time.time() * 1000)
        metrics = [Metric(name_metric(name), value, stamp, 0) for name, value in figures.items()]
        self._client.log_batch(run_id, metrics=metrics)
        self._client.set_terminated(run_id)

    def fail(self, run_id: str, *, reason: str) -> None:
        """Close the run of a trial that failed."""
        self._client.set_tag(run_id, "reason", reason[:5000])
        self._client.set_terminated(run_id, "FAILED")

    def close_stopped(self) -> None:
        """Close the runs that a killed process left open."""
        mine = f"tags.`mlflow.parentRunId` = '{self._parent}' and attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self._experiment], mine):
            self.fail(run.info.run_id, reason="stopped")

    def close(self, *, best: Mapping[str, float], experiment: str | None) -> None:
        """Close the run of the search; its figures are the best trial's."""
        if experiment is not None:
            self._client.set_tag(self._parent, "best", experiment)
        self.end(self._parent, figures=best)

    def _find_or_create_parent(self, study: str) -> str:
        left = self._client.search_runs([self._experiment], f"tags.{STUDY} = '{study}'", max_results=1)
        run = left[0] if left else self._client.create_run(self._experiment, run_name=study, tags={STUDY: study})
        return str(run.info.run_id)
