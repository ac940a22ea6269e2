"""What the web UI asks for its pages: the asset graph, an asset with its partitions, the list of runs."""

from __future__ import annotations

from typing import Any

from cm_dagster.ledger import tags
from cm_dagster.plan.names import StepId

__all__ = ["questions"]

_GRAPH = """query($keys: [AssetKeyInput!]!) {
    assetNodes(assetKeys: $keys) {
        assetKey {path} partitionStats {numMaterialized numMaterializing numPartitions numFailed}
        assetMaterializations(limit: 1) {timestamp runId} assetObservations(limit: 1) {timestamp runId}}
    assetsLatestInfo(assetKeys: $keys) {assetKey {path} unstartedRunIds inProgressRunIds latestRun {id status}}}"""
_HEALTH = """query($key: AssetKeyInput!) {assetNodeOrError(assetKey: $key) {... on AssetNode {
    partitionKeysByDimension {name partitionKeys}
    assetPartitionStatuses {... on DefaultPartitionStatuses {
        materializedPartitions failedPartitions materializingPartitions unmaterializedPartitions}}}}}"""
_PARTITION = """query($key: AssetKeyInput!, $partition: String!) {assetNodeOrError(assetKey: $key) {... on AssetNode {
    latestRunForPartition(partition: $partition) {id status endTime}
    assetMaterializations(partitions: [$partition], limit: 100) {timestamp runId metadataEntries {label}}
    assetObservations(partitions: [$partition], limit: 100) {timestamp runId metadataEntries {label}}}}}"""
_EVENTS = """query($key: AssetKeyInput!) {assetOrError(assetKey: $key) {... on Asset {
    assetMaterializations(limit: 50) {timestamp runId partition metadataEntries {label}}
    assetObservations(limit: 50) {timestamp runId partition metadataEntries {label}}}}}"""
_CHECKS = """query($key: AssetKeyInput!) {assetNodeOrError(assetKey: $key) {... on AssetNode {
    assetChecksOrError {... on AssetChecks {checks {
        name executionForLatestMaterialization {id runId status timestamp}}}}}}}"""
_RUNS = """query($filter: RunsFilter!, $limit: Int!) {
    runsOrError(filter: $filter, limit: $limit) {... on Runs {results {
        id status jobName creationTime startTime endTime tags {key value} assetSelection {path}
        assetCheckSelection {name} hasTerminatePermission}}}}"""
_COUNTS = """query($queued: RunsFilter!, $going: RunsFilter!) {
    queued: runsOrError(filter: $queued) {... on Runs {count}}
    going: runsOrError(filter: $going) {... on Runs {count}}}"""
_PAGE = 31
"""Runs that a page of the list asks for."""


def questions(step: StepId, group: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Give what the web UI asks about a step, by page: the document and its variables.

    Parameters
    ----------
    step
        The step at a site.
    group
        A group of it.
    """
    key = {"path": list(step.asset)}
    stages = [key, *({"path": [*step.asset[:2], stage]} for stage in ("inputs", "collected"))]
    of_step = {"tags": [{"key": tags.STEP, "value": step.tag}]}
    return {
        "asset graph": (_GRAPH, {"keys": stages}),
        "partitions": (_HEALTH, {"key": key}),
        "one partition": (_PARTITION, {"key": key, "partition": group}),
        "events": (_EVENTS, {"key": key}),
        "checks": (_CHECKS, {"key": key}),
        "runs, all": (_RUNS, {"filter": {}, "limit": _PAGE}),
        "runs in progress": (_RUNS, {"filter": {"statuses": ["STARTED"]}, "limit": _PAGE}),
        "runs of the step": (_RUNS, {"filter": of_step, "limit": _PAGE}),
        "runs of the step, failed": (_RUNS, {"filter": {**of_step, "statuses": ["FAILURE"]}, "limit": _PAGE}),
        "numbers of runs": (_COUNTS, {"queued": {"statuses": ["QUEUED"]}, "going": {"statuses": ["STARTED"]}}),
    }
