"""Why a registry does not answer, in a few words, and whether its database is one."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

from cbir.errors import RegistryError

CAUSES = (re.compile(r"\[Errno -?\d+\] ([^'\")]+)"), re.compile(r"(timed out)"), re.compile(r"(Max retries exceeded)"))
LONGEST = 120  # characters
READ_ONLY = "readonly database"  # as SQLite says it


def find_cause(error: Exception) -> str:
    """The cause in an error of MLflow, which puts it behind the names of every layer that it passed; else its start."""
    text = str(error)
    found = next(filter(None, (cause.search(text) for cause in CAUSES)), None)
    return found[1].strip() if found else text.splitlines()[0][:LONGEST]


def blame_registry(uri: str, error: Exception) -> RegistryError:
    """The fault of a registry that failed at a call."""
    if READ_ONLY in str(error):
        return RegistryError(f"The registry {uri} cannot be written to; run in a workspace that you may write to.")
    return RegistryError(
        f"The registry {uri} does not answer ({find_cause(error)}); start it, or see MLFLOW_TRACKING_URI."
    )


def check_database(path: Path) -> None:
    """Refuse a file that is no database, or not whole; one that is not there, or empty, MLflow makes.

    Raises:
        RegistryError: so it is.
    """
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # e.g. it is locked: MLflow waits, and says so
            return
        raise RegistryError(
            f"{path} is no database of the registry ({error}); restore it from a backup, or move it away to begin "
            "with no releases."
        ) from None
