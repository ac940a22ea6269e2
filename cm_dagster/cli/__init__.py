"""The command line, ``cm``.

Modules of commands are imported when their command is run, and import Dagster and the Rubin packages inside of the
functions that use them: ``cm --help`` answers at once.
"""

from __future__ import annotations

import logging

import click

from cm_dagster.cli.root import Root

__all__ = ["cm", "main"]


@click.group(
    cls=Root,
    commands_in={
        "audit": ("cm_dagster.cli.audit:audit", "Compare ledger, submit area, WMS and Butler; say what does not fit."),
        "campaign": ("cm_dagster.cli.campaign:campaign", "Make, start and look at campaigns."),
        "demo": ("cm_dagster.cli.demo:demo", "Run a campaign on real survey records on this machine."),
        "doctor": ("cm_dagster.cli.doctor:doctor", "Check this installation, the deployment and the site."),
        "group": ("cm_dagster.cli.verbs:group", "Look at groups and their attempts; retry, rescue, accept, hold them."),
        "limits": ("cm_dagster.cli.limits:limits", "Show and change how much goes at once."),
        "plan": ("cm_dagster.cli.plan:plan", "Show groups and what would be submitted; nothing is written."),
        "quanta": ("cm_dagster.cli.quanta:quanta", "Show the quanta of accepted groups, by step and task."),
        "schema": ("cm_dagster.cli.schema:schema", "Print the JSON schema of campaign or site files."),
        "site": ("cm_dagster.cli.site:site", "Look at sites; stop them for a downtime, and start them again."),
        "status": ("cm_dagster.cli.status:status", "Show how far campaigns are, and what they wait for."),
        "step": ("cm_dagster.cli.step:step", "Have a step stop and go on."),
        "ui": ("cm_dagster.cli.demo:ui", "Start the web UI and the daemon on this machine."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="cm-dagster", prog_name="cm")
def cm() -> None:
    """Campaign management for the Rubin Observatory on Dagster.

    \b
    Exit codes: 0  done
                1  a service or the ledger failed or refused; `error:` says why, `what to do:` how to go on
                2  bad input: a wrong command line, or a wrong file (one line for each fault)
                3  cm audit: a source could not be asked, so not everything was looked at

    \b
    Environment: DAGSTER_HOME  folder with dagster.yaml, the same as the daemon's
                 CM_SITES      path of sites.yaml
                 CM_SITE       the site that this host works for, where sites.yaml has several
                 CM_WORKSPACE  path of workspace.yaml; by default that in DAGSTER_HOME
                 CM_USER       name that decisions are recorded under; by default the account's
    """  # noqa: D301  (click wants the character \b)


def main() -> None:
    """Run ``cm``; the entry point of the installed command."""
    logging.basicConfig(level=logging.ERROR)  # what libraries retry by themselves is no news
    cm.main()
