"""What one attempt hands to BPS: the configuration, the shell scripts, and the files around them.

All of it is data: the configuration is dumped as YAML by whoever writes it, never pasted together as text, and both
the YAML and the script can be run by hand (``bash submit.sh``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cm_dagster.errors import PlanError
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import AttemptId
from cm_dagster.spec.models import CampaignSpec, StackSpec
from cm_dagster.spec.sites import SiteSpec
from cm_dagster.spec.steps import merge

__all__ = ["PROVENANCE", "READY_LINE", "TryPaths", "bps_config", "data_query", "submit_script"]

READY_LINE = "cm: stack is set up"
"""What a script prints once the stack is set up: a log without it says that the set-up failed."""

PROVENANCE = "provenance.qg"
"""Name of the provenance graph in a submit directory; the workflow's final job writes it."""

_SUBSTITUTED = re.compile(r"\$|[{}]|<ENV:|<BPSTMP|bpsEval")
"""What BPS replaces in any value, and offers no way to escape."""

_DEFAULTS: dict[str, Any] = {"finalJob": {"requestCpus": 1, "requestMemory": 4096}}
"""Ours instead of BPS's 16 cores and 32 GiB for a final job, for which small sites have no node; all may override."""


@dataclass(frozen=True)
class TryPaths:
    """The files of one try to submit an attempt.

    A failed ``bps submit`` leaves its directory behind and a second one there reports only that, so each try has its
    own; the configuration and the script are those of the latest try.
    """

    folder: Path
    """Folder of the attempt."""
    number: int
    """From 1."""

    @property
    def config(self) -> Path:
        """The BPS configuration."""
        return self.folder / "bps.yaml"

    @property
    def script(self) -> Path:
        """Script that sets the stack up and runs ``bps submit`` on the configuration."""
        return self.folder / "submit.sh"

    @property
    def submit_dir(self) -> Path:
        """BPS's submit directory."""
        return self.folder / f"submit-{self.number}"

    @property
    def log(self) -> Path:
        """Output of ``bps submit``."""
        return self.folder / f"submit-{self.number}.log"

    @property
    def result(self) -> Path:
        """How far the try came (JSON)."""
        return self.folder / f"submit-{self.number}.json"


def data_query(where: str) -> str:
    r"""Write a predicate as BPS's ``dataQuery``.

    BPS puts it between double quotes into a command line that it splits as a shell would, so ``"`` and ``\`` need a
    backslash; line breaks become blanks.

    Parameters
    ----------
    where
        Butler expression.

    Raises
    ------
    PlanError
        If it contains what BPS would replace.
    """
    text = " ".join(where.split("\n")).strip()
    if found := _SUBSTITUTED.search(text):
        raise PlanError(
            f"BPS would replace {found.group()!r} in the predicate {where!r}",
            advice="write the predicate without $, { }, <ENV: and bpsEval",
        )
    return text.replace("\\", "\\\\").replace('"', '\\"')


def bps_config(
    spec: CampaignSpec,
    site: SiteSpec,
    group: Group,
    attempt: AttemptId,
    paths: TryPaths,
    *,
    inputs: str,
    operator: str,
    rescued: Sequence[str] = (),
    memory: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Make the BPS configuration of one attempt.

    Parameters
    ----------
    spec
        The campaign.
    site
        The attempt's site.
    group
        The group; its predicate becomes the data query.
    attempt
        The attempt; gives all names.
    paths
        Files of this try.
    inputs
        Input chain of the step.
    operator
        Who submits, as known to the WMS; reports are asked for by it.
    rescued
        RUN collections of former attempts whose finished quanta are not to be done again, the newest first. They must
        exist: BPS ignores an absent one in silence and does everything again.
    memory
        Memory that jobs ask for, in MB, by section, e.g. ``pipetask/isr``, whatever the ``bps`` sections say.

    Returns
    -------
    config
        To be dumped as YAML. The ``bps`` sections of the site, the campaign, its defaults and the step are laid over
        each other in this order; the keys that identify the attempt win over all of them.

    Raises
    ------
    PlanError
        If the group's predicate cannot be handed through BPS.
    """
    step = attempt.step.step
    own = spec.settings(step).bps
    layers = merge(_DEFAULTS, site.bps, own, _includes(site.bps, own))
    names = {
        "uniqProcName": attempt.workflow,
        "operator": operator,
        "project": "cm",
        "campaign": spec.campaign,
        "submitPath": str(paths.submit_dir),
        "pipelineYaml": spec.pipeline_of(step),
        "wmsServiceClass": site.wms.service,
        "computeSite": site.wms.compute_site,
        "payload": {
            "payloadName": f"{step}_{group.name}_{attempt.short}",
            "butlerConfig": spec.butler.repo or site.butler,
            "inCollection": ",".join([*rescued, inputs]),
            "output": attempt.output(spec.butler.output),
            "outputRun": attempt.run(spec.butler.output),
            "dataQuery": data_query(group.where),
        },
    }
    options = {
        "extraAggregateOptions": _options(layers, "extraAggregateOptions", f"-o {paths.submit_dir / PROVENANCE}")
    }
    if rescued:
        skip = f"--skip-existing-in {','.join(rescued)}"
        options["extraQgraphOptions"] = _options(layers, "extraQgraphOptions", skip)
    return merge(layers, names, options, *(_memory(section, value) for section, value in (memory or {}).items()))


def _memory(section: str, value: int) -> dict[str, Any]:
    """Write the memory that the jobs of a section ask for."""
    content: dict[str, Any] = {"requestMemory": value}
    for part in reversed(section.split("/")):
        content = {part: content}
    return content


def _includes(*layers: Mapping[str, Any]) -> dict[str, list[str]]:
    """Add up what sections include, in order: BPS lets a later file win."""
    found = [layer["includeConfigs"] for layer in layers if layer.get("includeConfigs")]
    files = [file for files in found for file in ([files] if isinstance(files, str) else files)]
    return {"includeConfigs": files} if files else {}


def _options(layers: Mapping[str, Any], key: str, ours: str) -> str:
    """Add our command line options to those that a section asks for."""
    return f"{layers.get(key) or ''} {ours}".strip()


def submit_script(stack: StackSpec, site: SiteSpec, command: Sequence[str], *, path: Sequence[str] = ()) -> str:
    """Make a bash script that sets up a campaign's stack at a site and runs a command in it.

    Parameters
    ----------
    stack
        The campaign's stack.
    site
        The site; its environment variables are exported first (``$NAME`` in a value is expanded), then its own set-up
        lines run.
    command
        Command and arguments.
    path
        Folders to put before ``PATH`` for a stack that needs no set-up.

    Returns
    -------
    script
        Text of the script. It prints `READY_LINE` to standard error once the stack is there.
    """
    lines = [
        "#!/bin/bash",
        "set -euo pipefail",
        # With it every command line of the stack compiles all its modules at each start: 7 s of CPU.
        "unset PYTHONDONTWRITEBYTECODE",
        *(f"export {name}=${{{name}:-1}}" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")),
        *(f"export {name}={_expandable(value)}" for name, value in site.env.items()),
        *_foreign(site.stack.setup),
        *_set_up(stack, path),
        f"echo {shlex.quote(READY_LINE)} >&2",
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def _expandable(value: str) -> str:
    """Quote a value for bash so that only ``$NAME`` and ``${NAME}`` are expanded."""
    quoted = re.sub(r'(["\\`]|\$(?=\())', r"\\\1", value)
    return f'"{quoted}"'


def _foreign(lines: str) -> list[str]:
    """Lines of others, which are seldom written for ``set -u``."""
    return ["set +u", *lines.strip().splitlines(), "set -u"] if lines.strip() else []


def _set_up(stack: StackSpec, path: Sequence[str]) -> list[str]:
    """Lines that set a campaign's stack up."""
    if stack.setup == "script":
        return _foreign(stack.script)
    if stack.setup == "eups":
        where = "${RUBIN_EUPS_PATH:?set it in the env of the site: the folder that holds loadLSST.bash}"
        load = f'source "${{RUBIN_EUPS_PATH}}/loadLSST.bash"\nsetup lsst_distrib -t {shlex.quote(stack.version)}'
        return [f': "{where}"', *_foreign(load)]
    return [f'export PATH={shlex.quote(":".join(path))}:"$PATH"'] if path else []
