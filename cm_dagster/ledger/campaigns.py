"""Campaigns as the ledger knows them: each decision of a person is a materialization of the asset ``campaigns``.

The latest materialization of a campaign's partition holds its whole specification and state; the earlier ones are its
history, with who, when and why.

Uses of ``dagster._core``: none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import dagster as dg

from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.ledger.latest import latest
from cm_dagster.ledger.overrides import Override, changed_text, dump, load, overridden, without
from cm_dagster.plan.names import StepId
from cm_dagster.spec import CampaignSpec
from cm_dagster.spec.overrides import campaign_with

__all__ = [
    "ASSET",
    "PARTITIONS",
    "UNPLANNED",
    "Campaign",
    "create",
    "find",
    "load_all",
    "override",
    "pause",
    "pick",
    "remark",
    "reset",
    "resume",
    "sign_off",
    "start",
]

ASSET = dg.AssetKey(["campaigns"])
UNPLANNED = "unplanned"
"""Partition of a step until its groups are made; it is no group, so nothing can be launched for it."""
PARTITIONS = dg.DynamicPartitionsDefinition(name="campaigns")


@dataclass(frozen=True)
class Campaign:
    """A campaign's latest revision and state."""

    spec: CampaignSpec
    started: bool = False
    signed: frozenset[str] = frozenset()
    """Steps whose gate a person has opened."""
    overrides: Mapping[str, Override] = field(default_factory=dict)
    """What was set at run time, by dotted path: settings in place of the specification's; and `pause_key` and
    `resume_key`, of which only who, when and why count."""
    revision: int = 0
    """Storage id of the materialization that this was read from; it grows with each change."""
    changed: float = 0.0
    """Seconds since the epoch of the latest change."""
    action: str = ""
    """What the latest change was."""
    user: str = ""
    """Who made it."""
    reason: str = ""

    @cached_property
    def now(self) -> CampaignSpec:
        """The specification with what was set at run time."""
        settings = {path: each.value for path, each in self.overrides.items() if _is_setting(path)}
        return campaign_with(self.spec, settings) if settings else self.spec

    def pause(self, step: str) -> tuple[str, Override] | None:
        """Give what is paused (a step, or empty for the campaign) and by whom, if a step is; None if it goes on."""
        for what in ("", step):
            if found := self.overrides.get(pause_key(what)):
                return what, found
        return None

    def resumed(self, step: str) -> float:
        """When a person last said that a step is to go on, in seconds since the epoch; 0 if nobody did."""
        found = self.overrides.get(resume_key(step))
        return found.time if found else 0.0


def load_all(instance: dg.DagsterInstance) -> dict[str, Campaign]:
    """Read all campaigns, by name."""
    names = instance.get_dynamic_partitions("campaigns")
    if not names:
        return {}
    found = latest(instance, ASSET, names, _read)
    return {name: found[name] for name in sorted(found)}


def find(instance: dg.DagsterInstance, name: str) -> Campaign:
    """Read one campaign.

    Raises
    ------
    LedgerError
        If there is no campaign of that name.
    """
    return pick(load_all(instance), name)


def pick(known: Mapping[str, Campaign], name: str) -> Campaign:
    """Take a campaign from those that there are.

    Raises
    ------
    LedgerError
        If there is no campaign of that name.
    """
    if name not in known:
        names = ", ".join(known) or "none"
        raise LedgerError(f"there is no campaign {name!r}", advice=f"known campaigns: {names}")
    return known[name]


def create(instance: dg.DagsterInstance, spec: CampaignSpec, *, user: str, reason: str = "") -> bool:
    """Make a campaign known; it does nothing until it is started.

    Returns
    -------
    created : `bool`
        False if the same campaign, with the same specification, was there already.

    Raises
    ------
    LedgerError
        If a campaign of that name has another specification.
    """
    existing = load_all(instance).get(spec.campaign)
    if existing is not None:
        if existing.spec == spec:
            return False
        raise LedgerError(
            f"campaign {spec.campaign!r} exists with another specification",
            advice="give the new one another name; what has been planned or run is bound to the specification it had",
        )
    _write(instance, Campaign(spec, action="create", user=user, reason=reason))
    crash_point("create.written")
    # Dagster shows an asset without any partition as complete; a step that is not planned must not look so.
    for step in spec.steps:
        for site in spec.sites:
            instance.add_dynamic_partitions(StepId(spec.campaign, step, site).tag, [UNPLANNED])
    # The partition comes last: a campaign is known only when all of it is.
    instance.add_dynamic_partitions("campaigns", [spec.campaign])
    return True


def start(instance: dg.DagsterInstance, name: str, *, user: str, reason: str = "") -> bool:
    """Let a campaign's steps go; returns False if it was started before."""
    campaign = find(instance, name)
    if campaign.started:
        return False
    _write(instance, replace(campaign, started=True, action="start", user=user, reason=reason))
    return True


def sign_off(instance: dg.DagsterInstance, name: str, step: str, *, user: str, reason: str) -> bool:
    """Open the gate of a step; returns False if it was open before.

    Raises
    ------
    LedgerError
        If the campaign has no such step, or the step has no gate.
    """
    campaign = find(instance, name)
    if step not in campaign.spec.steps or campaign.spec.steps[step].gate is None:
        gated = [label for label, each in campaign.spec.steps.items() if each.gate] or ["none"]
        raise LedgerError(f"step {step!r} of {name!r} has no gate", advice=f"steps with a gate: {', '.join(gated)}")
    if step in campaign.signed:
        return False
    signed = campaign.signed | {step}
    _write(instance, replace(campaign, signed=signed, action=f"sign-off {step}", user=user, reason=reason))
    return True


def pause_key(step: str) -> str:
    """Where it stands that a step is paused; an empty name is that of the campaign as a whole."""
    return f"steps.{step}.paused" if step else "paused"


def resume_key(step: str) -> str:
    """Where it stands that a person has said that a step is to go on."""
    return f"steps.{step}.resumed"


def _is_setting(path: str) -> bool:
    return path.rpartition(".")[2] not in ("paused", "resumed")


def pause(instance: dg.DagsterInstance, name: str, step: str = "", *, user: str, reason: str) -> bool:
    """Have nothing more of a campaign, or of one of its steps, submitted; returns False if it was paused before.

    What is in the sites' hands goes on, and is judged and chained.

    Raises
    ------
    LedgerError
        If there is no such campaign, or it has no such step.
    """
    campaign = _with_step(instance, name, step)
    key = pause_key(step)
    if key in campaign.overrides:
        return False
    now = overridden(campaign.overrides, {key: True}, user=user, time=time.time(), reason=reason)
    _write(instance, replace(campaign, overrides=now, action=f"pause {step}".rstrip(), user=user, reason=reason))
    return True


def resume(instance: dg.DagsterInstance, name: str, step: str = "", *, user: str, reason: str) -> bool:
    """Let a campaign, or one of its steps, go on; returns False if the campaign was not paused.

    Of a step, failures until now count no more for its brake, so this always changes something.

    Raises
    ------
    LedgerError
        If there is no such campaign, or it has no such step.
    """
    campaign = _with_step(instance, name, step)
    if not step and pause_key("") not in campaign.overrides:
        return False
    now = without(campaign.overrides, [pause_key(step)])
    if step:
        now = overridden(now, {resume_key(step): True}, user=user, time=time.time(), reason=reason)
    _write(instance, replace(campaign, overrides=now, action=f"resume {step}".rstrip(), user=user, reason=reason))
    return True


def override(
    instance: dg.DagsterInstance, name: str, values: Mapping[str, Any], *, user: str, reason: str
) -> dict[str, Override]:
    """Set settings of a campaign at run time, by dotted path; returns what was set there before.

    Raises
    ------
    LedgerError
        If there is no such campaign.
    """
    campaign = find(instance, name)
    now = overridden(campaign.overrides, values, user=user, time=time.time(), reason=reason)
    action = f"set {changed_text(values)}"
    _write(instance, replace(campaign, overrides=now, action=action, user=user, reason=reason))
    return {path: each for path, each in campaign.overrides.items() if path in values}


def reset(instance: dg.DagsterInstance, name: str, paths: Iterable[str], *, user: str, reason: str) -> list[str]:
    """Take back what was set at run time at some paths; returns those at which something was set.

    Raises
    ------
    LedgerError
        If there is no such campaign.
    """
    campaign = find(instance, name)
    gone = [path for path in paths if path in campaign.overrides]
    if gone:
        now, action = without(campaign.overrides, gone), f"reset {' '.join(gone)}"
        _write(instance, replace(campaign, overrides=now, action=action, user=user, reason=reason))
    return gone


def remark(instance: dg.DagsterInstance, name: str, action: str, *, user: str, reason: str) -> None:
    """Write into a campaign's history what was decided about a part of it.

    Raises
    ------
    LedgerError
        If there is no such campaign.
    """
    _write(instance, replace(find(instance, name), action=action, user=user, reason=reason))


def _with_step(instance: dg.DagsterInstance, name: str, step: str) -> Campaign:
    campaign = find(instance, name)
    if step and step not in campaign.spec.steps:
        raise LedgerError(
            f"campaign {name} has no step {step!r}", advice=f"its steps: {', '.join(campaign.spec.order())}"
        )
    return campaign


def _write(instance: dg.DagsterInstance, campaign: Campaign) -> None:
    metadata = {
        "action": dg.MetadataValue.text(campaign.action),
        "user": dg.MetadataValue.text(campaign.user),
        "reason": dg.MetadataValue.text(campaign.reason),
        "started": dg.MetadataValue.bool(campaign.started),
        "signed off": dg.MetadataValue.json(sorted(campaign.signed)),
        "set at run time": dg.MetadataValue.json(dump(campaign.overrides)),
        "specification": dg.MetadataValue.json(campaign.spec.model_dump(mode="json")),
    }
    instance.report_runless_asset_event(
        dg.AssetMaterialization(ASSET, partition=campaign.spec.campaign, metadata=metadata)
    )


def _read(record: dg.EventLogRecord) -> Campaign:
    event = record.asset_materialization
    if event is None:
        raise LedgerError(f"record {record.storage_id} of asset campaigns is not a materialization")
    values = {key: value.value for key, value in event.metadata.items()}
    return Campaign(
        spec=CampaignSpec.model_validate(values["specification"]),
        started=bool(values["started"]),
        signed=frozenset(str(step) for step in _list(values["signed off"])),
        overrides=load(values.get("set at run time")),
        revision=record.storage_id,
        changed=record.timestamp,
        action=str(values["action"]),
        user=str(values["user"]),
        reason=str(values["reason"]),
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
