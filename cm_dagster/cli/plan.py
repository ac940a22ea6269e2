"""``cm plan``: what a campaign would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cm_dagster.cli.output import console, json_option, table, write_json
from cm_dagster.cli.setting import known_sites, ledger, sites_option
from cm_dagster.errors import CmError, LedgerError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from cm_dagster.control.site import Site
    from cm_dagster.ledger.plans import Plan
    from cm_dagster.plan.allocation import SiteTotal
    from cm_dagster.plan.groups import Group
    from cm_dagster.services.input_report import InputRow
    from cm_dagster.spec import CampaignSpec, Sites

__all__ = ["plan"]

_WORDS = {
    "planned": "planned:",
    "possible": "would be cut into",
    "waiting": "not yet:",
    "failed": "cannot be planned:",
}
"""What is said of a step, by its state here."""
_FEW = 5
"""Groups of a step that are shown where all steps are."""
_MANY = 500
"""Most groups of a step that are shown; `--json` has all."""


@dataclass(frozen=True)
class _Step:
    """What is known of the groups of a step."""

    step: str
    state: str
    """``planned`` (the groups are made), ``possible`` (they would be these), ``waiting`` or ``failed``."""
    inputs: tuple[str, ...]
    groups: tuple[Group, ...] = ()
    reason: str = ""
    """Why there are no groups, or why they may not begin."""
    checked: tuple[InputRow, ...] = ()
    """What was looked at in the inputs."""
    sites: tuple[SiteTotal, ...] = ()
    """What each site has of the groups."""

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "state": self.state,
            "inputs": list(self.inputs),
            "reason": self.reason,
            "checked": [row.record() for row in self.checked],
            "sites": [vars(total) for total in self.sites],
            "groups": [vars(group) for group in self.groups],
        }


@click.command
@click.argument("what", metavar="CAMPAIGN_OR_FILE")
@click.option("--step", help="Show the groups of this step; without it, a few of every step.")
@click.option("--group", "group", help="Group of which the BPS configuration is shown; by default the first.")
@sites_option
@json_option
def plan(what: str, step: str | None, group: str | None, sites_file: Path | None, as_json: bool) -> None:
    """Show whether inputs are complete, groups with sizes and predicates, and what BPS would be given for one of them.

    Takes the name of a campaign, or a campaign file that need not be created yet. The Butler is asked; nothing is
    submitted or written. A step whose inputs do not exist yet has no groups, and says so.
    """
    if group is not None and step is None:
        raise click.UsageError("--group needs --step")
    spec, plans = _campaign(what, sites_file)
    if step is not None and step not in spec.steps:
        raise click.UsageError(f"campaign {spec.campaign} has no step {step!r}; its steps: {', '.join(spec.order())}")
    sites = known_sites(sites_file)
    if sites is None:
        raise CmError("CM_SITES is not set", advice="set it to the path of sites.yaml, or give --sites FILE")
    found = [_look(spec, name, sites, plans) for name in (spec.order() if step is None else [step])]
    example = _example(spec, sites, found, group)
    if as_json:
        steps = [each.to_json() for each in found]
        write_json({"campaign": spec.campaign, "created": plans is not None, "steps": steps, "example": example})
    else:
        _print(spec, found, example, all_groups=step is not None)
        if step is None:
            click.echo(f"\nthe groups of one step: cm plan {what} --step STEP")
    failed = next((each for each in found if each.state == "failed"), None)
    if failed is not None and step is not None:
        raise CmError(f"{failed.step} cannot be planned: {failed.reason}")


def _campaign(what: str, sites_file: Path | None) -> tuple[CampaignSpec, dict[str, Plan] | None]:
    """Find a campaign by its file or its name; with the plans that are made, or None if it was never created."""
    from cm_dagster.spec import load_campaign

    path = Path(what)
    if path.suffix in (".yaml", ".yml") or "/" in what or path.is_file():
        return load_campaign(path, known_sites(sites_file)), None
    with ledger() as instance:
        from cm_dagster.ledger import campaigns
        from cm_dagster.ledger.plans import load_plans

        spec = campaigns.find(instance, what).spec
        return spec, load_plans(instance, what, spec.steps)


def _look(spec: CampaignSpec, step: str, sites: Sites, plans: dict[str, Plan] | None) -> _Step:
    """Give the groups of a step as they are made, or make them as they would be after a look at its inputs."""
    from cm_dagster.control.inputs import input_collections, look_at_inputs, site_totals_of
    from cm_dagster.plan.names import step_output

    made = (plans or {}).get(step)
    if made is not None:
        return _Step(step, "planned", made.inputs, made.groups, sites=tuple(site_totals_of(spec, step, made.groups)))
    inputs = tuple(input_collections(spec, step))
    try:
        home = _site(sites, sites.home)
        butler = home.butler(spec)
        waits = [need for need in spec.steps[step].needs if not butler.exists(step_output(spec.butler.output, need))]
        if waits:
            return _Step(step, "waiting", inputs, reason=f"the output of {', '.join(waits)} does not exist yet")
        look = look_at_inputs(home, spec, step)
        missing = look.error(step)
        if missing:
            return _Step(step, "failed", inputs, reason=str(missing), checked=look.rows)
        totals = tuple(site_totals_of(spec, step, look.groups))
        return _Step(step, "possible", inputs, look.groups, checked=look.rows, sites=totals)
    except CmError as error:
        return _Step(step, "failed", inputs, reason=str(error))


def _site(sites: Sites, name: str) -> Site:
    from cm_dagster.control.site import Site

    if name not in sites.sites:
        raise LedgerError(f"site {name!r} is not in the site file", advice=f"known sites: {', '.join(sites.sites)}")
    return Site(name, sites.sites[name])


def _example(spec: CampaignSpec, sites: Sites, steps: list[_Step], name: str | None) -> dict[str, Any] | None:
    """Render what would be handed to BPS for one group; None if there is no group."""
    step = next((each for each in steps if each.groups), None)
    if step is None:
        return None
    group = next((each for each in step.groups if name in (None, each.name)), None)
    if group is None:
        raise click.UsageError(f"step {step.step} has no group {name!r}; its last one is {step.groups[-1].name}")
    from cm_dagster.plan.names import AttemptId, StepId, step_input
    from cm_dagster.plan.render import TryPaths, bps_config

    site = _site(sites, group.site)
    attempt = AttemptId(StepId(spec.campaign, step.step, site.name), group.name, 1)
    paths = TryPaths(attempt.folder(site.area), 1)
    inputs = step_input(spec.butler.output, step.step)
    config = bps_config(spec, site.spec, group, attempt, paths, inputs=inputs, operator=site.operator)
    script = site.submitter.script(spec.stack, ["bps", "submit", str(paths.config)])
    where = {"bps.yaml": str(paths.config), "submit.sh": str(paths.script)}
    return {"step": step.step, "group": group.name, "files": where, "config": config, "script": script}


def _print(spec: CampaignSpec, steps: list[_Step], example: dict[str, Any] | None, *, all_groups: bool) -> None:
    from cm_dagster.plan.predicates import joined

    out = console()
    for step in steps:
        common = joined(spec.butler.where, spec.steps[step.step].where)
        for part in _step_lines(step, common, _MANY if all_groups else _FEW, all_rows=all_groups):
            out.print(part)
    if example is not None:
        _print_example(out, example)


def _step_lines(step: _Step, common: str, limit: int, *, all_rows: bool) -> Iterator[Any]:
    """Write the groups of a step; the predicate that all of them begin with is written once."""
    from rich.text import Text

    amount = f"{len(step.groups)} group{'' if len(step.groups) == 1 else 's'}"
    style = {"failed": "red", "waiting": "dim"}.get(step.state, "")
    yield Text.assemble((step.step, "bold"), f" {_WORDS[step.state]} ", (step.reason or amount, style))
    yield Text(f"inputs: {', '.join(step.inputs)}", "dim")
    yield from _checked_lines(step.checked, all_rows=all_rows)
    if step.groups:
        if common:
            yield Text(f"where: {common}", "dim")
        yield _group_table(step.groups[:limit], common)
        if limit < len(step.groups):
            yield Text(f"... and {len(step.groups) - limit} more, the last one {step.groups[-1].name}", "dim")
        if len(step.sites) > 1:
            yield from (Text(str(total)) for total in step.sites)
    yield ""


def _checked_lines(rows: Sequence[InputRow], *, all_rows: bool) -> Iterator[Any]:
    """Write what was looked at in the inputs: all of it, or what is missing or worth a note."""
    from rich.text import Text

    shown = [row for row in rows if all_rows or row.note or not row.met]
    if rows:
        missing = sum(not row.met for row in rows)
        style = "bold red" if missing else "dim"
        yield Text(
            f"checked: {len(rows)} things, {missing} missing" if missing else f"checked: {len(rows)} things", style
        )
    if shown:
        drawn = table("", "what", "kind", "wanted", "found", "note")
        for row in shown:
            sign = Text("ok", "green") if row.met else Text("missing", "bold red")
            drawn.add_row(sign, row.what, row.kind, row.wanted, row.found, row.note)
        yield drawn


def _group_table(groups: Sequence[Group], common: str) -> Table:
    numbers = [name for name in ("size", "datasets", "quanta") if any(getattr(group, name) for group in groups)]
    drawn = table("group", "site", *numbers, "data", "where", whole=("group",), right=tuple(numbers))
    for group in groups:
        counts = (str(getattr(group, name) or "") for name in numbers)
        own = group.where.removeprefix(f"{common} AND ") if common else group.where
        drawn.add_row(group.name, group.site, *counts, group.label, "" if own == common else own)
    return drawn


def _print_example(out: Console, example: dict[str, Any]) -> None:
    """Print the files as they are, so that they can be copied: nothing is wrapped."""
    import yaml

    files = example["files"]
    out.print(f"What would be submitted for {example['step']} {example['group']}:", style="bold")
    click.echo(f"# {files['bps.yaml']}")
    click.echo(yaml.safe_dump(example["config"], sort_keys=False), nl=False)
    click.echo(f"\n# {files['submit.sh']}")
    click.echo(example["script"], nl=False)
