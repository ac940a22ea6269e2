"""What the tests of the audit share: a site where all is in order, and ways to bring its groups on."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from lsst.daf.butler import Butler

from cm_dagster.control.audit import Audit, audit
from cm_dagster.control.chain import chain
from cm_dagster.control.verbs import Order, act
from cm_dagster.ledger import events
from cm_dagster.plan.names import AttemptId
from cm_dagster.policy.findings import Finding, Kind
from cm_dagster.policy.verbs import Verb
from cm_dagster.services.wms import WmsState
from cm_dagster_tests.integration.ledger_rig import LOG, STEP1, Rig, make_spec, open_rig

GROUPS = 6


@contextmanager
def open_site(folder: Path, blank: Path, repo: Path) -> Iterator[Rig]:
    """Make a site with a planned step, a real ledger and a copy of an empty repository."""
    shutil.copytree(repo, folder / "repo")
    with open_rig(folder, blank) as made:
        made.create()
        made.plan(GROUPS)
        (made.site.area / "camp").mkdir()
        yield made
        made.site.butler(make_spec()).close()


def attempt_of(group: str, number: int = 1) -> AttemptId:
    return AttemptId(STEP1, group, number)


def run_of(group: str, number: int = 1) -> str:
    return attempt_of(group, number).run("u/camp")


def register(rig: Rig, *runs: str) -> None:
    with Butler.from_config(rig.site.spec.butler, writeable=True) as butler:
        for run in runs:
            butler.collections.register(run)


def submit(rig: Rig, group: str, number: int = 1, *, parent: str | None = None) -> str:
    """Make an attempt with its workflow, claim and record, as it really goes."""
    run_id = rig.queue(group, number, parent=parent)
    assert rig.submit(run_id).submitted == 1
    return run_id


def accept(rig: Rig, group: str, number: int = 1, *, parent: str | None = None) -> str:
    run_id = submit(rig, group, number, parent=parent)
    rig.wms.set(rig.attempt(run_id).wms_id, WmsState.SUCCEEDED)
    register(rig, run_of(group, number))
    events.accept(rig.instance, events.Acceptance(rig.attempt(run_id), "good", {}))
    return run_id


def remember_chain(rig: Rig) -> None:
    chain(rig.instance, rig.site, STEP1).remember(rig.instance)


def look(rig: Rig, *names: str, fix_by: str = "") -> Audit:
    return audit(rig.instance, rig.site, LOG, campaigns=names or None, fix_by=fix_by)


def only(found: Audit, kind: Kind) -> Finding:
    """Give the one finding that there is."""
    assert [(each.kind, each.seen) for each in found.findings if each.kind is not kind] == []
    (finding,) = found.findings
    return finding


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Audit at a later time."""
    clock = SimpleNamespace(time=lambda: time.time() + seconds)
    monkeypatch.setattr("cm_dagster.control.evidence.time", clock)


def files(folder: Path) -> dict[str, tuple[float, int]]:
    return {str(path): (path.stat().st_mtime, path.stat().st_size) for path in folder.rglob("*")}


def commands(advice: str) -> list[str]:
    """Give the commands that are in an advice."""
    return re.findall("`([^`]+)`", advice)


def order(verb: str, rig: Rig, advice: str) -> None:
    """Do what an advice says, by the verb of ``cm group`` that is in it."""
    (words,) = [found for text in commands(advice) if (found := shlex.split(text))[:3] == ["cm", "group", verb]]
    campaign, step, group, option, reason = words[3:]
    assert option == "--reason"
    (result,) = act(rig.instance, rig.site, campaign, step, [group], Order(Verb(verb), "pilot", reason))
    assert result.done, result
