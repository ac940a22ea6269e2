"""``python -m cm_dagster.testing.oracle``: examine campaigns, and say what must not be."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cm_dagster.services.wms import WmsClient
from cm_dagster.testing.oracle import examine

_HISTORY = 3650.0
"""Days."""


@click.command()
@click.option("--wms", type=click.Path(path_type=Path), help="Home of a fake WMS.")
@click.option("--service", help="BPS plugin of another WMS, set up by its own environment variables.")
@click.option("--dagster", required=True, type=click.Path(exists=True, path_type=Path), help="DAGSTER_HOME.")
@click.option("--butler", help="Butler repository whose chains are looked at.")
@click.option("--campaign", "campaigns", multiple=True, help="Only this campaign; may be given again.")
@click.option("--running", is_flag=True, help="The campaigns are under way: only what is wrong already.")
def main(
    wms: Path | None,
    service: str | None,
    dagster: Path,
    butler: str | None,
    campaigns: tuple[str, ...],
    running: bool,
) -> None:
    """Examine campaigns: exit code 0 if all is well, 1 if not, 2 if it can't be told."""
    if (wms is None) == (service is None):
        raise click.UsageError("give either --wms or --service")
    try:
        source = wms or WmsClient(service or "").report_all(_HISTORY).values()
        findings = examine(source, dagster, butler=butler, campaigns=campaigns, running=running)
    except Exception as error:
        click.echo(f"it can't be told: {type(error).__name__}: {error}", err=True)
        sys.exit(2)
    click.echo(str(findings))
    sys.exit(0 if findings.clean else 1)


if __name__ == "__main__":
    main()
