"""Which faults are the user's, and what each tells them to do.

Every class below is raised with one message that names the remedy; the command line prints that message
and exits with status 2. Anything else that escapes is our own mistake and keeps its traceback.

    CbirError
    ├── SourceError        a source to import is missing, empty or malformed
    ├── ImageError         one image cannot be used (a reason for the quarantine, or a bad query image)
    ├── ParamsError        params.yaml has an unknown key or an impossible value
    ├── WorkspaceError     there is none, it may not be written to, or a file that an earlier step writes is not there
    ├── ValidationError    an expectation of severity error failed
    ├── SplitError         the items cannot be split as asked
    ├── TowerError         a tower's weights cannot be had or do not fit
    ├── TrainingError      training cannot start or diverged
    ├── GoldenError        the golden queries are malformed or name what is not there
    ├── StageError         a DVC command that a flow ran failed
    ├── GitError           git is missing, or refused what a release needs of it
    ├── ServerError        the Prefect server is not configured or does not answer
    ├── ReleaseError       no release is live, or the one asked for cannot be loaded
    │   └── RegistryError  the registry does not answer; trying again may help
    ├── IndexError_        an index table is missing, stale or does not match its encoder
    └── QueryError         a query is empty or its filter is not valid
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CbirError(Exception):
    """A fault that the user can mend; the message says how."""


class SourceError(CbirError):
    """A source to import is missing, empty or malformed."""


class ImageError(CbirError):
    """One image cannot be used."""


class ParamsError(CbirError):
    """``params.yaml`` has an unknown key or an impossible value."""


class WorkspaceError(CbirError):
    """There is no workspace, it may not be written to, or a file that an earlier step writes is not there."""


class ValidationError(CbirError):
    """An expectation of severity error failed."""


class SplitError(CbirError):
    """The items cannot be split as asked."""


class TowerError(CbirError):
    """A tower's weights cannot be had or do not fit."""


class TrainingError(CbirError):
    """Training cannot start, or its loss is no longer finite."""


class GoldenError(CbirError):
    """The golden queries are malformed, or name what is not there."""


class StageError(CbirError):
    """A DVC command failed; its last lines say why."""


class GitError(CbirError):
    """Git is missing, or refused what a release needs of it."""


class ServerError(CbirError):
    """The Prefect server is not configured, or does not answer."""


class ReleaseError(CbirError):
    """No release is live, or the one asked for cannot be loaded."""


class RegistryError(ReleaseError):
    """The registry does not answer; trying again may help."""


class IndexError_(CbirError):
    """An index table is missing, stale or does not match its encoder."""


class QueryError(CbirError):
    """A query is empty, or its filter is not valid."""


def hint_at(
    name: str, known: Iterable[str], *, otherwise: str | None = None, cutoff: float = 0.6, most: int = 1
) -> str:
    """The remedy for a name that is not known: the ``most`` nearest ones, else ``otherwise``, else all that there are.

    ``cutoff``: how near is near, from 0 to 1 (``difflib.get_close_matches``).
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=most, cutoff=cutoff)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are: {', '.join(known)}" if otherwise is None else otherwise
