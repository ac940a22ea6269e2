"""The assets of a step: its inputs, its groups at a site, what is chained, what is collected."""

# Not `from __future__ import annotations`: Dagster reads the type of `context` from the function itself.
from collections.abc import Callable, Iterator, Sequence

import dagster as dg
from pydantic import Field

from cm_dagster.assets.failing import RETRY, fail
from cm_dagster.assets.shown import group_of
from cm_dagster.assets.travel import delivered_asset, staged_asset
from cm_dagster.control.chain import chain
from cm_dagster.control.collect import collect
from cm_dagster.control.inputs import CHECKED, checked_table, prepare_inputs
from cm_dagster.control.lanes import LANE, prepare_lane
from cm_dagster.control.lifeline import hold_life_line
from cm_dagster.control.site import current_site
from cm_dagster.control.steps import chained_key, collected_key, delivered_key, inputs_key, lane_key, staged_key
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import CmError, NoInputsError
from cm_dagster.ledger import events, tags
from cm_dagster.ledger.checks import CHECK
from cm_dagster.ledger.events import Metadata
from cm_dagster.plan.names import StepId
from cm_dagster.spec import CampaignSpec

__all__ = ["quanta_check", "step_assets", "update_chain"]

_NO_WORKER = (
    "A workflow is run by BPS, never by a Dagster worker, and this run has reached one, so nothing was submitted."
    " This instance does not use cm_dagster's run coordinator: take run_coordinator and run_launcher from the"
    " dagster.yaml of cm_dagster (`cm doctor` says what is in use), or launch through the UI or a backfill"
    " instead of `dagster asset materialize`, which passes the coordinator by."
)


def step_assets(
    spec: CampaignSpec, step: str, *, site: str, home: bool, remote: Sequence[str] = ()
) -> list[dg.AssetsDefinition]:
    """Make the assets of a step that belong to a site's code location.

    Parameters
    ----------
    spec
        The campaign.
    step
        Name of the step.
    site
        The code location's site.
    home
        Whether it is the home site, to which inputs, delivered and collected belong.
    remote
        Sites of the campaign to and from which data must travel.
    """
    made: list[dg.AssetsDefinition] = []
    if site in spec.sites:
        id_ = StepId(spec.campaign, step, site)
        if spec.lanes(step):
            before, inputs = lane_key(id_), [_lane(spec, id_)]
        elif site in remote:
            before, inputs = staged_key(id_), [staged_asset(spec, id_)]
        else:
            before, inputs = inputs_key(spec.campaign, step), []
        made += [*inputs, _workflows(spec, id_, before), _chained(spec, id_)]
    if home:
        made += [_inputs(spec, step), _collected(spec, step, remote)]
        made += [delivered_asset(spec, StepId(spec.campaign, step, each)) for each in remote]
    return made


class InputsConfig(dg.Config):
    """What a person can say when the inputs of a step are materialized by hand."""

    without: list[str] = Field(
        default=[], description="What to go on without though it is missing, as the table of the check names it."
    )


def _inputs(spec: CampaignSpec, step: str) -> dg.AssetsDefinition:
    needed = [collected_key(spec.campaign, need) for need in spec.steps[step].needs]

    @dg.asset(
        key=inputs_key(spec.campaign, step),
        deps=needed,
        group_name=group_of(spec.campaign, step),
        kinds={"butler"},
        tags={tags.KIND: "inputs"},
        retry_policy=RETRY,
        check_specs=[_complete(inputs_key(spec.campaign, step), step)],
        description=f"Inputs of {step}: checked, chained, and cut into groups.",
    )
    def inputs(
        context: dg.AssetExecutionContext, config: InputsConfig
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        yield from _checked(
            context, lambda: prepare_inputs(context.instance, current_site(), spec, step, config.without)
        )

    return inputs


def _checked(
    context: dg.AssetExecutionContext, prepare: Callable[[], Metadata]
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Make inputs, with the evaluation of their check: what is not complete is not materialized, and not planned."""
    hold_life_line(current_site(), context.run.run_id)
    try:
        metadata = prepare()
    except NoInputsError as error:
        rows = {CHECKED: checked_table(error.rows)}
        yield dg.AssetCheckResult(passed=False, metadata=rows, description=str(error))
        fail(error)
    except CmError as error:
        fail(error)
    told = {label: value for label, value in metadata.items() if label == CHECKED}
    yield dg.MaterializeResult(metadata=metadata, check_results=[dg.AssetCheckResult(passed=True, metadata=told)])


def _lane(spec: CampaignSpec, step: StepId) -> dg.AssetsDefinition:
    @dg.asset(
        key=lane_key(step),
        deps=[chained_key(StepId(spec.campaign, need, step.site)) for need in spec.steps[step.step].needs],
        group_name=group_of(spec.campaign, step.step),
        kinds={"butler", step.site},
        tags={tags.KIND: LANE},
        retry_policy=RETRY,
        check_specs=[_complete(lane_key(step), step.step)],
        description=f"Inputs of {step.step} that {step.site} has made itself: checked, chained, and cut into groups.",
    )
    def lane(
        context: dg.AssetExecutionContext, config: InputsConfig
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        yield from _checked(
            context, lambda: prepare_lane(context.instance, current_site(), spec, step.step, config.without)
        )

    return lane


def _complete(key: dg.AssetKey, step: str) -> dg.AssetCheckSpec:
    text = f"All that {step} reads is there: collections, datasets, calibrations on its dates, disk."
    return dg.AssetCheckSpec("complete", asset=key, blocking=True, description=text)


def _workflows(spec: CampaignSpec, step: StepId, before: dg.AssetKey) -> dg.AssetsDefinition:
    @dg.asset(
        key=dg.AssetKey(step.asset),
        deps=[before],
        partitions_def=dg.DynamicPartitionsDefinition(name=step.tag),
        group_name=group_of(spec.campaign, step.step),
        kinds={"bps", step.site},
        tags={tags.KIND: tags.WORKFLOW},
        description=f"Groups of {step.step} at {step.site}: a run of a partition is an attempt at a workflow.",
    )
    def workflows() -> None:
        raise dg.Failure(_NO_WORKER, allow_retries=False)

    return workflows


def quanta_check(step: StepId) -> dg.AssetChecksDefinition:
    """Make the check that shows how a group's quanta were judged; it is written when they are, never by a worker."""

    @dg.asset_check(
        asset=dg.AssetKey(step.asset),
        name=CHECK,
        partitions_def=dg.DynamicPartitionsDefinition(name=step.tag),
        description="Enough quanta of the group have succeeded: judged when a workflow has ended, by the registry.",
    )
    def quanta() -> dg.AssetCheckResult:
        raise dg.Failure(_NO_WORKER, allow_retries=False)

    return quanta


def _chained(spec: CampaignSpec, step: StepId) -> dg.AssetsDefinition:
    @dg.asset(
        key=chained_key(step),
        deps=[dg.AssetKey(step.asset)],
        partitions_def=dg.DynamicPartitionsDefinition(name=step.tag),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=group_of(spec.campaign, step.step),
        kinds={"butler", step.site},
        tags={tags.KIND: "chained"},
        retry_policy=RETRY,
        description=f"Accepted groups of {step.step} that are in the chain of {step.site}.",
    )
    def chained(context: dg.AssetExecutionContext) -> None:
        update_chain(context, step, context.partition_keys)

    return chained


def update_chain(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, step: StepId, asked: Sequence[str] = ()
) -> None:
    """Set a step's chain at this site and log a materialization for each group that is new in it.

    Parameters
    ----------
    context
        Context of the op or asset that does it.
    step
        The step.
    asked
        Groups that the asset's own run materializes, so that they are not logged here.

    Raises
    ------
    dagster.Failure
        If the chain can't be set, or a group that was asked for is not accepted.
    """
    hold_life_line(current_site(), context.run.run_id)
    try:
        result = chain(context.instance, current_site(), step)
    except CmError as error:
        fail(error)
    made = [
        dg.AssetMaterialization(
            chained_key(step),
            partition=group,
            metadata={"chain": result.chain, "run collections": list(result.groups[group])},
        )
        for group in sorted(set(result.new) - set(asked))
    ]
    events.materialized(context.instance, context.run, made)
    if missing := sorted(set(asked) - set(result.groups)):
        raise dg.Failure(f"not accepted, so not chained: {', '.join(missing)}", allow_retries=False)
    crash_point("chain.logged")
    result.remember(context.instance)


def _collected(spec: CampaignSpec, step: str, remote: Sequence[str]) -> dg.AssetsDefinition:
    ids = [StepId(spec.campaign, step, site) for site in spec.sites]

    @dg.asset(
        key=collected_key(spec.campaign, step),
        deps=[delivered_key(id_) if id_.site in remote else chained_key(id_) for id_ in ids],
        group_name=group_of(spec.campaign, step),
        kinds={"butler"},
        tags={tags.KIND: "collected"},
        retry_policy=RETRY,
        description=f"All groups of {step}, in its output chain; and the chain of the campaign.",
    )
    def collected(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        hold_life_line(current_site(), context.run.run_id)
        if current_site().name in spec.sites:
            update_chain(context, StepId(spec.campaign, step, current_site().name))  # the groups accepted last
        try:
            return dg.MaterializeResult(metadata=collect(context.instance, current_site(), spec, step))
        except CmError as error:
            fail(error)

    return collected
