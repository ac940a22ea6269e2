"""``cm schema``."""

from __future__ import annotations

from typing import Literal

import click

from cm_dagster.cli.output import write_json

__all__ = ["schema"]


@click.command
@click.argument("kind", type=click.Choice(["campaign", "site"]))
def schema(kind: Literal["campaign", "site"]) -> None:
    """Print the JSON schema of a campaign file, or of the site file (sites.yaml).

    Editors use it to complete and check what is typed. Every value has a description with its unit and default.
    """
    from cm_dagster.spec import json_schema

    write_json(json_schema(kind))
