"""``cm doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import click

from cm_dagster.cli.checks import Finding, apart, check_interpreter, check_packages, check_programs
from cm_dagster.cli.output import console, json_option, state_text, table, write_json
from cm_dagster.cli.root import EXIT_FAILURE
from cm_dagster.cli.setting import home_folder, ledger
from cm_dagster.errors import CmError

__all__ = ["doctor", "findings"]


@click.command
@json_option
def doctor(as_json: bool) -> None:
    """Check this installation, the deployment and the site, and say what to do about what is wrong.

    Looks at the interpreter, packages, Dagster's home, storage, run coordinator, run launcher, daemon and sensors, at
    the site file, and at the Butler, the WMS and the submit area of the site that CM_SITE names (else of all sites).
    Nothing is changed. Exit code 1 if anything fails.
    """
    found = []
    drawn = table("check", "", "what was found", whole=("check", ""))
    for finding in findings():
        found.append(finding)
        text = finding.message + (f"\nwhat to do: {finding.advice}" if finding.advice else "")
        drawn.add_row(finding.check, state_text(finding.level), text)
    failed = sum(finding.level == "fail" for finding in found)
    if as_json:
        write_json({"ok": not failed, "checks": [finding.to_json() for finding in found]})
    else:
        console().print(drawn)
        warned = sum(finding.level == "warn" for finding in found)
        click.echo(f"\n{failed} of {len(found)} failed, {warned} to look at" if failed or warned else "\nall is well")
    if failed:
        raise SystemExit(EXIT_FAILURE)


def findings() -> Iterator[Finding]:
    """Make all checks, one after the other; a check that breaks is a failure of its own, and the others go on."""
    for check in (check_interpreter, check_packages, check_programs):
        yield from apart(check.__name__, check)
    yield from _instance()
    yield from _sites()


def _instance() -> Iterator[Finding]:
    from cm_dagster.cli import checks_dagster as checks

    try:
        home = home_folder()
    except CmError as error:
        yield Finding("DAGSTER_HOME", "fail", error.cause, error.advice)
        return
    yield Finding("DAGSTER_HOME", "ok", str(home))
    try:
        with ledger() as instance:
            for check in (
                checks.check_storage,
                checks.check_instance,
                checks.check_coordinator,
                checks.check_launcher,
                checks.check_daemon,
                checks.check_sensors,
            ):
                yield from apart(check.__name__, partial(check, instance))
    except CmError as error:
        yield Finding("storage", "fail", error.cause, "check the `storage` block of dagster.yaml and its database")
    yield from apart("check_daemon", partial(checks.check_daemon_environment, home))


def _sites() -> Iterator[Finding]:
    from cm_dagster.cli import checks_site as checks

    sites, found = checks.load()
    yield from found
    if sites is None:
        return
    own = os.environ.get("CM_SITE")
    for name in [own] if own in sites.sites else sites.sites:
        for check in (checks.check_butler, checks.check_wms, checks.check_submit_area):
            yield from apart(f"{check.__name__} {name}", partial(check, name, sites.sites[name]))
