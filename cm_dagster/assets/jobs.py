"""The jobs of a site: ordinary runs that act on a batch of attempts or on a step."""

# Not `from __future__ import annotations`: Dagster reads the type of `context` from the function itself.
from collections.abc import Sequence

import dagster as dg

from cm_dagster.assets.failing import RETRY
from cm_dagster.assets.steps import update_chain
from cm_dagster.assets.travel import journey_op
from cm_dagster.control.finalize import finalize
from cm_dagster.control.site import current_site
from cm_dagster.control.submit import submit
from cm_dagster.ledger import tags
from cm_dagster.ledger.loading import AssetJob
from cm_dagster.plan.names import StepId
from cm_dagster.spec import CampaignSpec

__all__ = ["site_jobs", "step_jobs"]

_ATTEMPTS = {"attempts": dg.Field([str], description="Run ids of the attempts.")}


def step_jobs(specs: Sequence[CampaignSpec], site: str) -> list[AssetJob]:
    """Make a job per step at a site, for the dispatcher and for `dagster job backfill`; its runs are attempts."""
    steps = [StepId(spec.campaign, step, site) for spec in specs if site in spec.sites for step in spec.order()]
    return [
        dg.define_asset_job(
            step.job,
            selection=dg.AssetSelection.assets(dg.AssetKey(step.asset)).without_checks(),
            description=f"Attempts at the groups of {step.tag}: a run per group.",
        )
        for step in steps
    ]


def site_jobs(site: str, journeys: Sequence[str] = ()) -> dict[str, dg.JobDefinition]:
    """Make the jobs of a site, by stage.

    Parameters
    ----------
    site
        Name of the site.
    journeys
        Kinds of journeys that it does: ``stage``, or ``deliver``.
    """

    @dg.op(name="submit_attempts", config_schema=_ATTEMPTS, pool=f"bps-submit/{site}")
    def submit_op(context: dg.OpExecutionContext) -> None:
        """Submit a batch of attempts: claim, look up, `bps submit`, record."""
        done = submit(context.instance, current_site(), context.op_config["attempts"], context.run_id, context.log)
        if done.errors:
            raise dg.Failure("\n".join(done.errors), allow_retries=False)

    @dg.op(name="finalize_attempts", config_schema=_ATTEMPTS)
    def finalize_op(context: dg.OpExecutionContext) -> None:
        """Run the final jobs of workflows again whose outputs are not all in the registry."""
        finalize(context.instance, current_site(), context.op_config["attempts"], context.run_id, context.log)

    @dg.op(
        name="chain_step", config_schema={"step": dg.Field(str, description="campaign/step/site")}, retry_policy=RETRY
    )
    def chain_op(context: dg.OpExecutionContext) -> None:
        """Put the accepted groups of a step into its chain at this site."""
        update_chain(context, StepId.from_tag(context.op_config["step"]))

    return {
        "submit": _job("submit", site, submit_op),
        "finalize": _job("finalize", site, finalize_op),
        "chain": _job("chain", site, chain_op),
        **{kind: _job(kind, site, journey_op(kind)) for kind in journeys},
    }


def _job(stage: str, site: str, op: dg.OpDefinition) -> dg.JobDefinition:
    # In process: a batch costs one process, not two.
    return dg.GraphDefinition(name=f"{stage}_{site}", node_defs=[op]).to_job(
        executor_def=dg.in_process_executor,
        tags={tags.KIND: stage, **tags.place_at(stage, site), **tags.NO_RETRIES},
        description=op.description,
    )
