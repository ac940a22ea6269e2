"""The assets of a step: its inputs, its groups at a site, what is chained, what is collected."""

# Not `from __future__ import annotations`: Dagster reads the type of `context` from the function itself.
from collections.abc import Iterator, Sequence
from typing import NoReturn

import dagster as dg
from pydantic import Field

from cm_dagster.control.chain import chain
from cm_dagster.control.collect import collect
from cm_dagster.control.history import PASSES, WHEN_THERE
from cm_dagster.control.inputs import CHECKED, checked_table, prepare_inputs
from cm_dagster.control.lifeline import hold_life_line
from cm_dagster.control.site import current_site
from cm_dagster.control.steps import chained_key, collected_key, inputs_key
from cm_dagster.crashpoints import crash_point
from cm_dagster.errors import CmError, LedgerError, NoInputsError
from cm_dagster.ledger import tags
from cm_dagster.ledger.checks import CHECK
from cm_dagster.plan.names import StepId
from cm_dagster.spec import CampaignSpec

__all__ = ["RETRY", "quanta_check", "step_assets", "update_chain"]

RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For hiccups, 15 s in all: after a longer outage the sensors ask again, so that no process waits for its end."""

_NO_WORKER = (
    "A workflow is run by BPS, never by a Dagster worker, and this run has reached one, so nothing was submitted."
    " This instance does not use cm_dagster's run coordinator: take run_coordinator and run_launcher from the"
    " dagster.yaml of cm_dagster (`cm doctor` says what is in use), or launch through the UI or a backfill"
    " instead of `dagster asset materialize`, which passes the coordinator by."
)


def step_assets(spec: CampaignSpec, step: str, *, site: str, home: bool) -> list[dg.AssetsDefinition]:
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
        Whether it is the home site, to which inputs and collected belong.
    """
    made: list[dg.AssetsDefinition] = []
    if site in spec.sites:
        id_ = StepId(spec.campaign, step, site)
        made += [_workflows(spec, id_), _chained(spec, id_)]
    if home:
        made += [_inputs(spec, step), _collected(spec, step)]
    return made


def _fail(error: CmError) -> NoReturn:
    """Have Dagster try again after a transient error, and fail at once, with its advice, after another one.

    What does not fit the state of the ledger is judged by the sensors anew: they ask again when it does. They ask again
    for inputs too, since who puts data into a collection does not come here to say so.
    """
    if error.transient:
        raise error
    advice = {"advice": error.advice} if error.advice else {}
    passes = {}
    if isinstance(error, LedgerError):
        passes = {PASSES: "by itself, when it is its turn"}
    elif isinstance(error, NoInputsError):
        passes = {PASSES: WHEN_THERE}
    raise dg.Failure(error.cause, metadata={**advice, **passes}, allow_retries=False) from error


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
        group_name=spec.campaign,
        kinds={"butler"},
        tags={tags.KIND: "inputs"},
        retry_policy=RETRY,
        check_specs=[
            dg.AssetCheckSpec(
                "complete",
                asset=inputs_key(spec.campaign, step),
                blocking=True,
                description=f"All that {step} reads is there: collections, datasets, calibrations on its dates, disk.",
            )
        ],
        description=f"Inputs of {step}: checked, chained, and cut into groups.",
    )
    def inputs(
        context: dg.AssetExecutionContext, config: InputsConfig
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        hold_life_line(current_site(), context.run.run_id)
        try:
            metadata = prepare_inputs(context.instance, current_site(), spec, step, config.without)
        except NoInputsError as error:
            # The evaluation is kept, the inputs are not: what is not complete is not materialized, and not planned.
            rows = {CHECKED: checked_table(error.rows)}
            yield dg.AssetCheckResult(passed=False, metadata=rows, description=str(error))
            _fail(error)
        except CmError as error:
            _fail(error)
        told = {label: value for label, value in metadata.items() if label == CHECKED}
        yield dg.MaterializeResult(metadata=metadata, check_results=[dg.AssetCheckResult(passed=True, metadata=told)])

    return inputs


def _workflows(spec: CampaignSpec, step: StepId) -> dg.AssetsDefinition:
    @dg.asset(
        key=dg.AssetKey(step.asset),
        deps=[inputs_key(step.campaign, step.step)],
        partitions_def=dg.DynamicPartitionsDefinition(name=step.tag),
        group_name=spec.campaign,
        kinds={"bps"},
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
        group_name=spec.campaign,
        kinds={"butler"},
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
        _fail(error)
    for group in sorted(set(result.new) - set(asked)):
        context.log_event(
            dg.AssetMaterialization(
                chained_key(step),
                partition=group,
                metadata={"chain": result.chain, "run collections": list(result.groups[group])},
            )
        )
    if missing := sorted(set(asked) - set(result.groups)):
        raise dg.Failure(f"not accepted, so not chained: {', '.join(missing)}", allow_retries=False)
    crash_point("chain.logged")
    result.remember(context.instance)


def _collected(spec: CampaignSpec, step: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=collected_key(spec.campaign, step),
        deps=[chained_key(StepId(spec.campaign, step, site)) for site in spec.sites],
        group_name=spec.campaign,
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
            _fail(error)

    return collected
