"""When `retrain` runs by itself."""

from __future__ import annotations

from pathlib import Path

from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError as PydanticError

from cbir.errors import ParamsError
from cbir.params import ScheduleParams
from cbir.params.file import load_section


def load_schedule(path: Path) -> CronSchedule:
    """When to run, from the section ``schedule`` of the params file.

    Raises:
        ParamsError: the cron line or the time zone is not one.
    """
    params = load_section(path, "schedule", ScheduleParams)
    try:
        return CronSchedule(cron=params.cron, timezone=params.timezone)
    except PydanticError as error:
        keys = {str(problem["loc"][0]) for problem in error.errors()}
        remedy = {
            "cron": f'schedule.cron: {params.cron!r} is no cron line; five fields, e.g. "0 3 * * 1", Mondays at 3:00',
            "timezone": f"schedule.timezone: {params.timezone!r} is no time zone; name one, e.g. Europe/Berlin",
        }
        raise ParamsError("params.yaml: " + "; ".join(remedy[key] for key in sorted(keys))) from None
