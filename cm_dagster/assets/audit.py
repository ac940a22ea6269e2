"""Asset ``audit/SITE``: the audit of a site, each materialization with the number of findings of each kind."""

# Not `from __future__ import annotations`: Dagster reads the type of `context` from the function itself.
from collections.abc import Iterator

import dagster as dg

from cm_dagster.control.audit import Audit, audit
from cm_dagster.control.history import iso
from cm_dagster.control.site import current_site
from cm_dagster.ledger import tags
from cm_dagster.ledger.events import Metadata
from cm_dagster.ledger.loading import AssetJob
from cm_dagster.policy.findings import Finding

__all__ = ["audit_asset", "audit_job"]

_SHOWN = 200
"""Most findings in the table of a materialization."""
_COLUMNS = ("kind", "where", "since", "seen", "what to do", "done")
_RETRIES = {"dagster/max_retries": "1", "dagster/retry_on_asset_or_op_failure": "false"}
"""A worker that dies is followed by another one; findings are not, by themselves."""


def audit_key(site: str) -> dg.AssetKey:
    """Asset that stands for the audits of a site."""
    return dg.AssetKey(["audit", site])


def audit_asset(site: str) -> dg.AssetsDefinition:
    """Make the asset of a site; whoever materializes it has live twins cancelled, as the schedule does."""

    @dg.asset(
        key=audit_key(site),
        group_name="audit",
        tags={tags.KIND: "audit"},
        description=f"Whether ledger, claims, WMS and Butler of {site} say the same of all attempts. A run of it fails"
        " if a workflow was submitted twice or accepted output is missing; `cm audit` shows the same.",
    )
    def audits(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        who = f"job audit_{site} (run {context.run.run_id})"
        found = audit(context.instance, current_site(), context.log, fix_by=who)
        for gap in found.gaps:
            context.log.warning("not done: %s: %s", gap.part, gap.cause)
        # First: a run that fails must have its findings on the asset's page, too.
        yield dg.MaterializeResult(metadata=_metadata(found))
        if alarming := found.alarming:
            lines = [f"{each.kind}: {each.where}: {each.seen}. What to do: {each.advice}" for each in alarming[:_SHOWN]]
            raise dg.Failure("\n".join([f"{len(alarming)} alarming findings", *lines]), allow_retries=False)

    return audits


def audit_job(site: str) -> AssetJob:
    """Make the job that audits a site."""
    return dg.define_asset_job(
        f"audit_{site}",
        selection=dg.AssetSelection.assets(audit_key(site)),
        tags={tags.KIND: "audit", **tags.place_at("audit", site), **_RETRIES},
        description=f"Audits {site}, and cancels workflows that were submitted twice.",
    )


def _metadata(found: Audit) -> Metadata:
    """Counts as numbers, which the UI plots; findings as a table."""
    shown = found.findings[:_SHOWN]
    columns = [dg.TableColumn(name) for name in _COLUMNS]
    table = dg.MetadataValue.table([_row(each) for each in shown], dg.TableSchema(columns=columns))
    gaps = [f"- {gap.part}: {gap.cause} ({gap.advice})" for gap in found.gaps]
    return {
        "findings": len(found.findings),
        **{str(kind): count for kind, count in found.counts.items()},
        "what was found": table,
        **({"not done": dg.MetadataValue.md("\n".join(gaps))} if gaps else {}),
        "parts not done": len(gaps),
        **{f"{name} looked at": count for name, count in found.looked_at.items()},
    }


def _row(each: Finding) -> dg.TableRecord:
    since = iso(each.since) if each.since else ""
    values = (str(each.kind), each.where, since, each.seen, each.advice, each.done)
    return dg.TableRecord(dict(zip(_COLUMNS, values, strict=True)))
