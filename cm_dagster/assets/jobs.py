"""The jobs of a site: ordinary runs that act on a batch of attempts or on a step."""

from __future__ import annotations

import dagster as dg

from cm_dagster.assets.steps import update_chain
from cm_dagster.control.finalize import finalize
from cm_dagster.control.site import current_site
from cm_dagster.control.submit import submit
from cm_dagster.ledger import tags
from cm_dagster.plan.names import StepId

__all__ = ["site_jobs"]

_ATTEMPTS = {"attempts": dg.Field([str], description="Run ids of the attempts.")}


def site_jobs(site: str) -> dict[str, dg.JobDefinition]:
    """Make the jobs of a site, by stage."""

    @dg.op(name=f"submit_{site}", config_schema=_ATTEMPTS, pool=f"bps-submit/{site}")
    def submit_op(context: dg.OpExecutionContext) -> None:
        """Submit a batch of attempts: claim, look up, `bps submit`, record."""
        done = submit(context.instance, current_site(), context.op_config["attempts"], context.run_id, context.log)
        if done.errors:
            raise dg.Failure("\n".join(done.errors), allow_retries=False)

    @dg.op(name=f"finalize_{site}", config_schema=_ATTEMPTS)
    def finalize_op(context: dg.OpExecutionContext) -> None:
        """Run the final jobs of workflows again whose outputs are not all in the registry."""
        finalize(context.instance, current_site(), context.op_config["attempts"], context.run_id, context.log)

    @dg.op(name=f"chain_{site}", config_schema={"step": dg.Field(str, description="campaign/step/site")})
    def chain_op(context: dg.OpExecutionContext) -> None:
        """Put the accepted groups of a step into its chain at this site."""
        update_chain(context, StepId.from_tag(context.op_config["step"]))

    return {
        "submit": _job("submit", site, submit_op),
        "finalize": _job("finalize", site, finalize_op),
        "chain": _job("chain", site, chain_op),
    }


def _job(stage: str, site: str, op: dg.OpDefinition) -> dg.JobDefinition:
    # In process: a batch costs one process, not two. No retries by Dagster: the sensors ask again by themselves.
    return dg.GraphDefinition(name=f"{stage}_{site}", node_defs=[op]).to_job(
        executor_def=dg.in_process_executor,
        tags={tags.KIND: stage, "dagster/max_retries": "0"},
        description=op.description,
    )
