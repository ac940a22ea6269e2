"""``cm doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from cm_dagster.cli.checks import Finding, apart, check_interpreter, check_packages, check_programs
from cm_dagster.cli.output import console, json_option, state_text, table, write_json
from cm_dagster.cli.root import EXIT_FAILURE
from cm_dagster.cli.setting import home_folder, ledger
from cm_dagster.errors import CmError

if TYPE_CHECKING:
    from cm_dagster.spec import SiteSpec

__all__ = ["doctor", "findings", "report", "site_findings"]


@click.command
@json_option
def doctor(as_json: bool) -> None:
    """Check this installation, the deployment and the site, and say what to do about what is wrong.

    Looks at the interpreter, packages, Dagster's home, storage, run coordinator, run launcher, daemon and sensors, at
    the site file, and at the Butler, the WMS, the submit area and the code server of the site that CM_SITE names (else
    of all sites).
    Nothing is changed. Exit code 1 if anything fails.
    """
    report(findings(), as_json=as_json)


def report(made: Iterable[Finding], *, as_json: bool) -> None:
    """Write what checks find, and exit with 1 if anything fails.

    Parameters
    ----------
    made
        The findings, as the checks are made.
    as_json
        Whether to write JSON.
    """
    found = []
    drawn = table("check", "", "what was found", whole=("check", ""))
    for finding in made:
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
        yield from _services(name, sites.sites[name])


def _services(name: str, spec: SiteSpec) -> Iterator[Finding]:
    from cm_dagster.cli import checks_site as checks

    for check in (checks.check_butler, checks.check_wms, checks.check_submit_area):
        yield from apart(f"{check.__name__} {name}", partial(check, name, spec))
    yield from apart("check_code_server", partial(checks.check_code_server, name))


def site_findings(name: str, spec: SiteSpec) -> Iterator[Finding]:
    """Make all checks of a site, one after the other.

    Parameters
    ----------
    name
        Name of the site.
    spec
        Its settings.
    """
    from cm_dagster.cli import checks_dagster
    from cm_dagster.cli import checks_site as checks

    yield from _services(name, spec)
    with ledger() as instance:
        yield from apart("check_daemon", partial(checks_dagster.check_daemon, instance))
        yield from apart("check_shared", partial(checks.check_shared, instance))
        yield from apart("check_site_sensors", partial(checks.check_site_sensors, instance, name, spec.tick))
        yield from apart("check_pool", partial(checks.check_pool, instance, name))
