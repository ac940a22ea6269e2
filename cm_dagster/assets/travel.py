"""The assets and jobs of journeys: inputs staged at a site, outputs delivered to the home site."""

# Not `from __future__ import annotations`: Dagster reads the type of `context` from the function itself.
from collections.abc import Callable, Sequence

import dagster as dg

from cm_dagster.assets.failing import RETRY, fail
from cm_dagster.assets.shown import group_of
from cm_dagster.control.astray import note_astray
from cm_dagster.control.deliver import deliver
from cm_dagster.control.lifeline import hold_life_line
from cm_dagster.control.site import current_site
from cm_dagster.control.stage import stage
from cm_dagster.control.steps import chained_key, delivered_key, inputs_key, staged_key
from cm_dagster.control.travel import DELIVER, DOCUMENTS, STAGE
from cm_dagster.errors import CmError, TransferError
from cm_dagster.ledger import campaigns, tags
from cm_dagster.ledger.events import Metadata
from cm_dagster.plan.names import StepId
from cm_dagster.services.mover import ButlerMover, Moved
from cm_dagster.spec import CampaignSpec

__all__ = ["delivered_asset", "journey_op", "staged_asset"]

type _Context = dg.OpExecutionContext | dg.AssetExecutionContext

_KEYS: dict[str, Callable[[StepId], dg.AssetKey]] = {STAGE: staged_key, DELIVER: delivered_key}
_WORK = {STAGE: stage, DELIVER: deliver}


def travel(context: _Context, kind: str, step: StepId, groups: Sequence[str], *, asked: bool = False) -> None:
    """Bring data of groups, and log a materialization for each group whose data have arrived.

    Parameters
    ----------
    context
        Context of the op or asset that does it.
    kind
        `STAGE` or `DELIVER`.
    step
        The step at a site.
    groups
        Names of groups.
    asked
        Whether the asset's own run is to materialize these groups, so that they are not logged here.

    Raises
    ------
    dagster.Failure
        If not all can be brought.
    """
    hold_life_line(current_site(), context.run.run_id)

    def tell(group: str, moved: Moved) -> None:
        context.log.info(f"{group}: {moved.datasets} datasets, {moved.new} of them brought now")
        if not asked:
            metadata: Metadata = {"datasets": moved.datasets, "brought by this run": moved.new, "in": list(moved.runs)}
            context.log_event(dg.AssetMaterialization(_KEYS[kind](step), partition=group, metadata=metadata))

    revision = campaigns.find(context.instance, step.campaign).revision
    try:
        done = _WORK[kind](context.instance, current_site(), ButlerMover(), step, groups, tell)
    except CmError as error:
        if isinstance(error, TransferError) and error.faults:
            run_id = context.run.run_id
            note_astray(context.instance, DOCUMENTS[kind], step, error.faults, revision=revision, run_id=run_id)
        fail(error)
    if asked and (missing := sorted(set(groups) - set(done))):
        raise dg.Failure(f"nothing to bring of {', '.join(missing)}", allow_retries=False)


def staged_asset(spec: CampaignSpec, step: StepId) -> dg.AssetsDefinition:
    """Make the asset that stands for the inputs of a site's groups being there."""

    @dg.asset(
        key=staged_key(step),
        deps=[inputs_key(step.campaign, step.step)],
        partitions_def=dg.DynamicPartitionsDefinition(name=step.tag),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=group_of(spec.campaign, step.step),
        kinds={"butler", step.site},
        tags={tags.KIND: "staged"},
        retry_policy=RETRY,
        description=f"Groups of {step.step} whose inputs are at {step.site}.",
    )
    def staged(context: dg.AssetExecutionContext) -> None:
        travel(context, STAGE, step, context.partition_keys, asked=True)

    return staged


def delivered_asset(spec: CampaignSpec, step: StepId) -> dg.AssetsDefinition:
    """Make the asset that stands for a site's accepted groups being at the home site."""

    @dg.asset(
        key=delivered_key(step),
        deps=[chained_key(step)],
        partitions_def=dg.DynamicPartitionsDefinition(name=step.tag),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=group_of(spec.campaign, step.step),
        kinds={"butler", step.site},
        tags={tags.KIND: "delivered"},
        retry_policy=RETRY,
        description=f"Accepted groups of {step.step} at {step.site} whose outputs are at the home site.",
    )
    def delivered(context: dg.AssetExecutionContext) -> None:
        travel(context, DELIVER, step, context.partition_keys, asked=True)

    return delivered


def journey_op(kind: str) -> dg.OpDefinition:
    """Make the op that brings data of some groups of a step, of a kind of journey."""

    @dg.op(
        name=f"{kind}_groups",
        config_schema={
            "step": dg.Field(str, description="campaign/step/site"),
            "groups": dg.Field([str], description="Names of groups."),
        },
        retry_policy=RETRY,
    )
    def journey(context: dg.OpExecutionContext) -> None:
        travel(context, kind, StepId.from_tag(context.op_config["step"]), context.op_config["groups"])

    return journey
