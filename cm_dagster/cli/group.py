"""``cm group``: groups and their attempts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cm_dagster.cli.output import console, json_option, state_text, table, write_json
from cm_dagster.cli.setting import known_sites, ledger, site_health, site_specs
from cm_dagster.errors import LedgerError
from cm_dagster.policy.states import OPEN, GroupState, State

if TYPE_CHECKING:
    import dagster as dg

    from cm_dagster.control.health import Progress
    from cm_dagster.control.overview import GroupView
    from cm_dagster.ledger.attempts import Attempt

__all__ = ["group"]

_WAITING = (GroupState.PLANNED, GroupState.QUEUED)


@click.group
def group() -> None:
    """Look at groups and their attempts."""


@group.command("list")
@click.argument("campaign")
@click.option("--step", help="Only groups of this step.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in GroupState]),
    help="Only groups in this state; repeatable.",
)
@click.option(
    "--limit", type=click.IntRange(min=0), default=200, show_default=True, help="Most groups in the table; 0 for all."
)
@json_option
def list_groups(campaign: str, step: str | None, states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List the groups of a CAMPAIGN, each with its latest attempt. A step has none before it is planned.

    --json lists all of them.
    """
    with ledger() as instance:
        found = [each for each in _groups(instance, campaign, step) if not states or each.state in states]
    if as_json:
        write_json([each.to_json() for each in found])
        return
    if not found:
        which = " ".join(word for word in (f"of step {step}" if step else "", f"{' or '.join(states)}") if word)
        click.echo(f"no groups {which}".rstrip())
        return
    drawn = table(
        "step",
        "group",
        "site",
        "state",
        "attempt",
        "workflow",
        "size",
        "data",
        whole=("step", "group", "state"),
        right=("attempt", "size"),
    )
    shown = found[:limit] if limit else found
    for each in shown:
        number = str(each.attempt.id.number) if each.attempt else ""
        workflow = each.attempt.wms_id if each.attempt else ""
        state = state_text(each.state)
        size = str(each.group.size or "")
        drawn.add_row(each.step.step, each.group.name, each.group.site, state, number, workflow, size, each.group.label)
    console().print(drawn)
    if len(shown) < len(found):
        click.echo(f"... and {len(found) - len(shown)} more: --step, --state, or --limit 0")


def _groups(instance: dg.DagsterInstance, campaign: str, step: str | None) -> list[GroupView]:
    """List groups with their states.

    Raises
    ------
    LedgerError
        If there is no such campaign, or it has no such step.
    """
    from cm_dagster.control.overview import groups_of
    from cm_dagster.control.steps import load_boards
    from cm_dagster.ledger import campaigns
    from cm_dagster.ledger.attempts import index_of
    from cm_dagster.ledger.decisions import read_decided
    from cm_dagster.plan.names import StepId

    spec = campaigns.find(instance, campaign).spec
    if step is not None and step not in spec.steps:
        raise LedgerError(f"campaign {campaign} has no step {step!r}", advice=f"its steps: {', '.join(spec.order())}")
    board = load_boards(instance, [campaign])[0]
    index, health = index_of(instance), site_health(instance, campaign)
    steps = spec.order() if step is None else [step]
    decided = read_decided(instance, [StepId(campaign, name, site) for name in steps for site in spec.sites])
    return [each for name in steps for each in groups_of(board, name, index, health, decided)]


@group.command
@click.argument("campaign")
@click.argument("step")
@click.argument("name", metavar="GROUP")
@json_option
def show(campaign: str, step: str, name: str, as_json: bool) -> None:
    """Show a GROUP: its data, all attempts with where their files are, why they failed, and what can be done next."""
    with ledger() as instance:
        groups = _groups(instance, campaign, step)
        found = next((each for each in groups if each.group.name == name), None)
        if found is None:
            last = f"its last group is {groups[-1].group.name}" if groups else "it is not planned yet: cm status"
            raise LedgerError(f"{campaign}/{step} has no group {name!r}", advice=last)
        document = {**_document(instance, found), "waits": _why(instance, found)}
    if as_json:
        write_json(document)
        return
    out = console()
    for line in _page(document):
        out.print(line)


def _document(instance: dg.DagsterInstance, found: GroupView) -> dict[str, Any]:
    from cm_dagster.control.health import read_progress
    from cm_dagster.ledger.attempts import index_of

    progress = read_progress(instance, found.group.site)
    spec = (site_specs() or {}).get(found.group.site)
    area = spec.submit_area if spec else None
    return {
        "campaign": found.step.campaign,
        **found.to_json(),
        **_decided(instance, found),
        "attempts": [
            _attempt(instance, attempt, progress.get(attempt.run_id), _folder(attempt, area))
            for attempt in index_of(instance).all_of(found.step, found.group.name)
        ],
        "next": _next(found, area),
    }


def _folder(attempt: Attempt, area: Path | None) -> str:
    """Name the folder of an attempt, which it has from its claim on; empty if that is not known here."""
    if attempt.folder or area is None or attempt.state is State.QUEUED:
        return attempt.folder
    return str(attempt.id.folder(area))


def _decided(instance: dg.DagsterInstance, found: GroupView) -> dict[str, Any]:
    """Give what was decided about a group, and what is to come of it."""
    from cm_dagster.ledger.decisions import Decided, decisions_on, read_decided

    name, latest = found.group.name, found.attempt
    now = read_decided(instance, [found.step]).get(found.step.tag, Decided())
    answer = now.answers.get(name)
    due = answer is not None and latest is not None and answer.is_due(latest.run_id, latest.state)
    return {
        "held": str(now.holds[name]) if name in now.holds else None,
        "follows": str(answer) if due else None,
        "decisions": [decision.to_json() for decision in decisions_on(instance, found.step, name)],
    }


def _why(instance: dg.DagsterInstance, found: GroupView) -> str:
    """Say why a group does not go; empty where it is on its way, is not to go, or that is not known here."""
    from cm_dagster.control.dispatch import why_group_waits
    from cm_dagster.control.floor import Floor

    sites = os.environ.get("CM_SITES")
    known = known_sites(Path(sites)) if sites else None
    site = found.group.site
    if known is None or site not in known.sites:
        return f"the limits of site {site} are not known here: set CM_SITES" if found.state in _WAITING else ""
    floor = Floor(instance, site, known.sites[site])
    return why_group_waits(floor, floor.boards[found.step.campaign], found.step.step, found.group.name)


def _attempt(instance: dg.DagsterInstance, attempt: Attempt, seen: Progress | None, folder: str) -> dict[str, Any]:
    from cm_dagster.control.history import end_details, end_message, iso
    from cm_dagster.control.waiting import why_waits
    from cm_dagster.ledger import tags

    jobs, wait = (dict(seen.jobs) if seen else {}), why_waits(attempt, seen)
    over = attempt.state not in OPEN
    details = end_details(instance, attempt.run_id) if over else {}
    return {
        "attempt": attempt.id.number,
        "state": str(attempt.state),
        "run_id": attempt.run_id,
        "workflow": attempt.id.workflow,
        "wms_id": attempt.wms_id or None,
        "by": "a person" if attempt.by_person else "dispatch",
        "user": attempt.tags.get(tags.USER),
        "created": iso(attempt.created),
        "started": iso(attempt.started) if attempt.started else None,
        "ended": iso(attempt.ended) if attempt.ended else None,
        "run_collection": attempt.output_run or None,
        "submit_dir": attempt.submit_dir or None,
        "folder": folder or None,
        "jobs": jobs or details.get("jobs", {}),
        "quanta": details.get("quanta", []),
        "end": end_message(instance, attempt.run_id) if over else "",
        "waits": wait.to_json() if wait else None,
    }


def _next(found: GroupView, area: Path | None) -> str:
    """Say what can be done about a group."""
    attempt, where = found.attempt, "/".join(found.step.asset)
    status = f"cm status {found.step.campaign}"
    if attempt is None:
        return f"nothing: an attempt is requested when it is its turn; `{status}` says how its step stands"
    again = f"in the web UI, re-execute run {attempt.run_id}, or materialize partition {found.group.name} of {where}"
    folder = _folder(attempt, area)
    log = f"; the log of its submission is in {folder}" if folder else ""
    verbs = f"{found.step.campaign} {found.step.step} {found.group.name} --reason TEXT"
    if found.state is GroupState.FAILED:
        return f"put the cause right, then cm group rescue|restart|retry|accept {verbs}; or, {again}{log}"
    if found.state is GroupState.HELD:
        return f"to try again: cm group release {verbs}; or, {again}"
    if found.state is GroupState.ACCEPTED:
        once_more = f"cm group reject {verbs}; or, in the web UI, re-execute run {attempt.run_id}"
        return f"nothing; should it be processed once more: {once_more}"
    if found.state is GroupState.UNKNOWN:
        return "nothing: the WMS is asked again by itself; `cm doctor` says whether it answers"
    stop = f"cm group cancel {verbs}, or terminate run {attempt.run_id} in the web UI"
    return f"nothing; to stop it: {stop}, which cancels its workflow"


def _page(document: dict[str, Any]) -> Iterator[Any]:
    from rich.text import Text

    step = f"{document['campaign']} {document['step']} {document['group']}"
    yield Text.assemble((step, "bold"), f" at {document['site']}  ", state_text(document["state"]))
    yield from _fields({"data": document["label"], "size": document["size"] or None, "where": document["where"]})
    yield from _fields({"held": document["held"], "follows": document["follows"]})
    yield from _fields({"waits": document["waits"]})
    for attempt in document["attempts"]:
        yield ""
        yield Text.assemble((f"attempt {attempt['attempt']}", "bold"), "  ", state_text(attempt["state"]))
        yield from _attempt_lines(attempt)
    yield from _decision_lines(document["decisions"])
    yield ""
    yield from _fields({"next": document["next"]})


def _decision_lines(decisions: list[dict[str, Any]]) -> Iterator[Any]:
    from rich.text import Text

    if decisions:
        yield ""
        yield Text("decisions", "bold")
    for each in decisions:
        change = f"{each['before']} -> {each['after']}"
        yield Text(f"  {each['time']} {each['user']}: {each['action']}, {change} ({each['reason']})")


def _attempt_lines(attempt: dict[str, Any]) -> Iterator[Any]:
    folder = attempt["folder"]
    yield from _fields(
        {
            "cause" if attempt["state"] == "failed" else "end": attempt["end"],
            "waits": _wait_line(attempt["waits"]),
            "by": attempt["user"] or attempt["by"],
            "time": _times(attempt),
            "run": attempt["run_id"],
            "workflow": f"{attempt['wms_id']} ({attempt['workflow']})" if attempt["wms_id"] else attempt["workflow"],
            "output": attempt["run_collection"],
            "submit dir": attempt["submit_dir"],
            "folder": f"{folder}: bps.yaml, submit.sh, submit-N.log" if folder else None,
            "jobs": _counts(attempt["jobs"]),
        }
    )
    if attempt["quanta"]:
        columns = [str(name) for name in attempt["quanta"][0]]
        drawn = table(*columns, right=tuple(columns[1:]))
        for row in attempt["quanta"]:
            drawn.add_row(*(str(value) for value in row.values()))
        yield drawn


def _wait_line(wait: dict[str, Any] | None) -> str:
    """Say why an attempt waits, since when, and when it is tried again."""
    if wait is None:
        return ""
    times = "once" if wait["tries"] == 1 else f"{wait['tries']} times"
    return f"{wait['cause']}; tried {times} since {wait['since']}, next try at {wait['next']}"


def _times(attempt: dict[str, Any]) -> str:
    words = [
        f"{word} {attempt[key]}"
        for word, key in (("created", "created"), ("begun", "started"), ("ended", "ended"))
        if attempt[key]
    ]
    return ", ".join(words)


def _counts(jobs: dict[str, Any]) -> str:
    """Write job counts: of all jobs, or of each task."""
    parts = []
    for name, count in jobs.items():
        inner = ", ".join(f"{number} {state}" for state, number in count.items()) if isinstance(count, dict) else ""
        parts.append(f"{name}: {inner}" if inner else f"{count} {name}")
    return "; ".join(parts)


def _fields(values: dict[str, Any]) -> Iterator[Any]:
    """Lay out names and values; what is empty is left out."""
    from rich.table import Table

    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="dim", no_wrap=True, min_width=10)
    drawn.add_column(overflow="fold")
    for name, value in values.items():
        if value:
            drawn.add_row(name, str(value))
    yield drawn
