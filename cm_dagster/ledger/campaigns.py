"""Campaigns as the ledger knows them: each decision of a person is a materialization of the asset ``campaigns``.

The latest materialization of a campaign's partition holds its whole specification and state; the earlier ones are its
history, with who, when and why.

Uses of ``dagster._core``: none. Storage ids of materializations are read through methods of the instance that Dagster
does not document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import dagster as dg

from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import LedgerError
from cm_dagster.plan.names import StepId
from cm_dagster.spec import CampaignSpec

__all__ = ["ASSET", "PARTITIONS", "UNPLANNED", "Campaign", "create", "find", "load_all", "pick", "sign_off", "start"]

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
    revision: int = 0
    """Storage id of the materialization that this was read from; it grows with each change."""
    changed: float = 0.0
    """Seconds since the epoch of the latest change."""
    action: str = ""
    """What the latest change was."""
    user: str = ""
    """Who made it."""
    reason: str = ""


def load_all(instance: dg.DagsterInstance) -> dict[str, Campaign]:
    """Read all campaigns, by name."""
    names = instance.get_dynamic_partitions("campaigns")
    if not names:
        return {}
    ids = instance.get_latest_storage_id_by_partition(ASSET, dg.DagsterEventType.ASSET_MATERIALIZATION, set(names))
    wanted = dg.AssetRecordsFilter(asset_key=ASSET, storage_ids=sorted(ids.values()))
    records = instance.fetch_materializations(wanted, limit=max(len(ids), 1)).records if ids else []
    found = [_read(record) for record in records]
    return {campaign.spec.campaign: campaign for campaign in sorted(found, key=lambda c: c.spec.campaign)}


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


def _write(instance: dg.DagsterInstance, campaign: Campaign) -> None:
    metadata = {
        "action": dg.MetadataValue.text(campaign.action),
        "user": dg.MetadataValue.text(campaign.user),
        "reason": dg.MetadataValue.text(campaign.reason),
        "started": dg.MetadataValue.bool(campaign.started),
        "signed off": dg.MetadataValue.json(sorted(campaign.signed)),
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
        revision=record.storage_id,
        changed=record.timestamp,
        action=str(values["action"]),
        user=str(values["user"]),
        reason=str(values["reason"]),
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
