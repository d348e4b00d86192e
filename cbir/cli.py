"""The command ``cbir-ops``: parse, call, print."""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
import webbrowser
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from cbir import data_commands, experiment_commands, release_commands
from cbir.errors import CbirError
from cbir.printing import AsJson, print_json
from cbir.texts import flatten_line
from cbir.workspace import check_writable, find_workspace

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
DAILY, RELEASES, FIGURES = "Every day", "Releases", "Figures and experiments"  # how `--help` groups commands
app.add_typer(data_commands.app, name="data", rich_help_panel=DAILY)

UPLOADS = ("retrain", "deploy", "demo")  # of whole models: these wait for a registry as long as MLflow does
WAIT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}  # seconds, of the others
MOST_HITS = 1_000_000
STOPPED = {"refused": 3, "inconclusive": 4}  # exit status of `retrain`
REMEDIES = {
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room within your quota, then run the same command again",
    errno.EROFS: "run in a workspace that you may write to",
    errno.EACCES: "let yourself read and write it, then run the same command again",
}
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # between the lines of our JSON
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 take four minutes of a registry that is down
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}


def print_version(wanted: bool) -> None:
    """Print it and end, before a command is asked for."""
    if wanted:
        typer.echo(f"cbir-ops {metadata.version('cbir-ops')}")
        raise typer.Exit


def set_defaults(variables: Mapping[str, str]) -> None:
    """Set variables of the environment that the user has not set."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


@app.callback()
def set_up(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Image search that retrains itself."""
    if context.invoked_subcommand not in UPLOADS:
        set_defaults(WAIT)


@app.command(rich_help_panel=DAILY)
def demo() -> None:
    """The main job on the embedded default: import OpenMoji, retrain, ask."""
    from cbir.demo import show_release
    from cbir.evaluation_page import write_evaluation_page
    from cbir.sources import import_source

    workspace = find_workspace()
    check_writable(workspace)
    report = import_source("openmoji", name=None, raw=workspace / "data" / "raw")
    typer.echo(f"OpenMoji (CC BY-SA 4.0): {report.added} pictures added, {report.unchanged} unchanged")
    summary = _run_retrain(workspace)
    _exit_where_stopped(summary)
    typer.echo(f"Release {summary['version']} is live; {summary['rows']} items were indexed.\n")
    typer.echo(show_release(workspace))
    typer.echo(f"Curves, best and worst queries: {write_evaluation_page(workspace, now=datetime.now(UTC))}")


@app.command(rich_help_panel=DAILY)
def query(
    words: Annotated[list[str] | None, typer.Argument(help="Words to search for.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to search with.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=MOST_HITS, help="How many hits.")] = 10,
    where: Annotated[str | None, typer.Option(help="SQL condition, e.g. \"label = 'food-drink/food-fruit'\".")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Put first what shows the same thing as --image.")] = False,
    as_json: AsJson = False,
    gallery: Annotated[bool, typer.Option("--html", help="Write a gallery and open it.")] = False,
) -> None:
    """Search the live release by words, a picture, or both."""
    from cbir.search import Searcher

    workspace = find_workspace()
    text = " ".join(words) if words else None
    searcher = Searcher.open(workspace)
    hits = searcher.query(text=text, image=image, k=k, where=where, verify=verify)
    if not hits:
        typer.echo(searcher.explain_nothing(where), err=True)
    if as_json:
        print_json([{key: value for key, value in asdict(hit).items() if key != "thumbnail"} for hit in hits])
    else:
        widest = max((len(hit.id) for hit in hits), default=0)
        for hit in hits:
            seen = "" if hit.agreeing is None else f"  {hit.agreeing} places agree"
            caption, label = flatten_line(hit.caption), flatten_line(hit.label)
            typer.echo(f"{hit.score:.3f}  {hit.id:<{widest}} {caption}  [{label}]{seen}")
    if gallery:
        from cbir.evaluation_page.galleries import show_asking
        from cbir.report import render_gallery, write_page

        asks = [] if image is None else [show_asking(image)]
        title = " + ".join(part for part in (text, image and image.name) if part)
        title += f", where {where}" if where else ""
        path = workspace / "reports" / "query.html"
        write_page(path, title="cbir-ops query", sections=[render_gallery(title, [*asks, *hits])])
        typer.echo(str(path), err=True)
        webbrowser.open(path.as_uri())


@app.command(rich_help_panel=DAILY)
def retrain() -> None:
    """Version the data, run the stages, register, publish, check, compare, promote.

    Exit status: 0 where search is as it should be, 3 where the gate refused the release, 4 where it could not tell.
    """
    summary = _run_retrain(find_workspace())
    typer.echo(json.dumps(summary))
    if count := summary["quarantined"]:
        typer.echo(f"{count:,} items could not be used: `cbir-ops data quarantine` says why.", err=True)
    _exit_where_stopped(summary)


@app.command(rich_help_panel=DAILY)
def refresh(
    most_deleted: Annotated[float, typer.Option(min=0, max=1, help="Share of the rows that may go.")] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Bring new, changed and deleted pictures of data/raw to the live index, without a training."""
    from cbir.registry import open_registry
    from flows.home import choose_home

    workspace = find_workspace()
    check_writable(workspace)
    open_registry(workspace).get_champion()  # that none is live is said before Prefect starts
    choose_home(workspace)
    from flows.faults import leave_faults_to_caller
    from flows.refresh import refresh as flow

    leave_faults_to_caller()
    found = flow(str(workspace), most_deleted=most_deleted)
    if as_json:
        print_json(found)
        return
    counts = [f"{found[name]:,} {name}" for name in ("added", "changed", "deleted", "unchanged", "embedded")]
    wrong = {"left out": found["refused"], "not readable": found["unreadable"]}
    counts += [f"{len(items):,} {name}" for name, items in wrong.items() if items]
    typer.echo(f"Release {found['version']}: {', '.join(counts)}.")


@app.command(rich_help_panel=RELEASES)
def gate(
    explain: Annotated[bool, typer.Option("--explain", help="Print the rules of the last decision.")] = False,
    override: Annotated[bool, typer.Option("--override", help="Promote a release that did not pass.")] = False,
    release: Annotated[
        str | None, typer.Option(help="Version, or an alias; by default the challenger, else the champion.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who overrides.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say why a release was promoted or not, or promote one on your own account."""
    if explain == override:
        raise typer.BadParameter("give either --explain or --override")
    if explain and (by or reason):
        raise typer.BadParameter("--by and --reason belong to --override; --explain only says what was decided")
    if override:
        from cbir.override import promote_against_gate

        entry = promote_against_gate(find_workspace(), version=release, by=by, reason=reason)
        if as_json:
            print_json(entry)
        else:
            typer.echo(f"Release {entry['version']} is live, by {entry['by']}.")
        return
    from cbir.gate_report import format_decision, read_decision

    document = read_decision(find_workspace(), version=release)
    if as_json:
        print_json(document)
    else:
        typer.echo(format_decision(document))


@app.command(rich_help_panel=DAILY)
def deploy() -> None:
    """Retrain on the schedule in params.yaml, and by hand from Prefect's pages, until interrupted."""
    from flows.deploy import serve_retrain

    serve_retrain(find_workspace())


@app.command(rich_help_panel=FIGURES)
def report() -> None:
    """Write a page of the last training and evaluation: figures, curves, best and worst queries."""
    from cbir.evaluation_page import write_evaluation_page

    typer.echo(str(write_evaluation_page(find_workspace(), now=datetime.now(UTC))))


@app.command(rich_help_panel=FIGURES)
def evaluate(
    source: Annotated[str, typer.Option("--data", help="A folder of pictures in any layout that can be imported.")],
    release: Annotated[str, typer.Option(help="Whose encoder: its number, or an alias.")] = "champion",
    as_json: AsJson = False,
) -> None:
    """Score a release on other data, all of it test items; data/ stays as it is. Writes a page into reports/."""
    from cbir.outside import describe_counts, evaluate_outside, list_figures, locate_encoder

    workspace = find_workspace()
    folder, asked = locate_encoder(workspace, release)
    found = evaluate_outside(source, encoder_folder=folder, workspace=workspace, now=datetime.now(UTC), release=asked)
    if as_json:
        print_json(found.metrics)
    else:
        typer.echo("\n".join(list_figures(found.metrics)))
    typer.echo("\n".join([describe_counts(found.metrics["counts"]), *found.warnings, str(found.page)]), err=True)


def _run_retrain(workspace: Path) -> dict[str, Any]:
    from flows.home import choose_home

    check_writable(workspace)
    choose_home(workspace)
    from flows.faults import leave_faults_to_caller
    from flows.retrain import retrain as flow

    leave_faults_to_caller()  # after every import: some set up logging anew
    return flow(str(workspace))


def _exit_where_stopped(summary: dict[str, Any]) -> None:
    """Leave with a status of its own where the gate let nothing go live."""
    status = STOPPED.get(summary["outcome"])
    if status is not None:
        live = f"release {summary['version']} stays live" if summary["version"] else "no release is live"
        way_on = " `cbir-ops refresh` brings it the pictures that are new." if summary["version"] else ""
        typer.echo(
            f"{summary['outcome']}: {summary['reasons']}; {live}. See "
            f"`cbir-ops gate --explain --release {summary['candidate']}`.{way_on}",
            err=True,
        )
        raise typer.Exit(status)


app.add_typer(release_commands.app, name="releases", rich_help_panel=RELEASES)
app.command(rich_help_panel=RELEASES)(release_commands.lineage)
app.command(rich_help_panel=RELEASES)(release_commands.repro)
app.command(rich_help_panel=FIGURES)(experiment_commands.tune)
app.command(rich_help_panel=FIGURES)(experiment_commands.crossval)


def main() -> None:
    """Entry point: user faults, a disk that is full and files that may not be written are one message and status 2."""
    gc.set_threshold(100_000)  # imports make objects that stay: looking through them again took 0.3 s of a command
    set_defaults(QUIET)
    try:
        app()
    except CbirError as error:
        _give_up(str(error))
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        place = error.filename2 or error.filename
        _give_up(f"{f'{place}: ' if place else ''}{error.strerror}; {REMEDIES[error.errno]}.")


def _give_up(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(2)
