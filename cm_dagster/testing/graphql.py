"""A small client of the calls that Dagster's web UI makes: launch, backfill, re-execute, terminate, look.

The documents ask for the same things as the UI's own, so what a call does here a click does there.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ASSET_JOB", "Backfill", "GraphqlError", "Launched", "Partitions", "Run", "WebUi"]

ASSET_JOB = "__ASSET_JOB"
"""Job that the UI names when assets are materialized by hand."""

type Key = Sequence[str]
"""Parts of an asset's key."""


class GraphqlError(Exception):
    """The web UI refused a call, or did not understand it."""


@dataclass(frozen=True)
class Run:
    """A run."""

    run_id: str
    job: str
    status: str
    parent: str | None
    """The run that it re-executes."""
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Launched:
    """What became of a launch."""

    run_id: str
    status: str
    """Status of the run when the call came back."""


@dataclass(frozen=True)
class Partitions:
    """Partitions of an asset by what the UI shows of them."""

    materialized: frozenset[str]
    failed: frozenset[str]
    materializing: frozenset[str]
    unmaterialized: frozenset[str]
    """Neither materialized nor failed; those that are materializing for the first time are among them."""


@dataclass(frozen=True)
class Backfill:
    """An asset backfill."""

    status: str
    run_ids: tuple[str, ...]
    materialized: int
    failed: int
    in_progress: int


class WebUi:
    """Client of a Dagster webserver.

    Parameters
    ----------
    url
        Address of the web UI.
    location
        Name of the code location (the site) that launches and sensors belong to.
    user
        Who acts, as a proxy would tell in the header ``X-Forwarded-User``; empty for nobody.
    """

    def __init__(self, url: str, *, location: str, user: str = "") -> None:
        self.url = url
        self.location = location
        self.user = user

    def call(self, document: str, **variables: Any) -> dict[str, Any]:
        """Send a document and give the data of the answer.

        Raises
        ------
        GraphqlError
            If the answer has errors.
        OSError
            If the webserver does not answer.
        """
        headers = {"Content-Type": "application/json", **({"X-Forwarded-User": self.user} if self.user else {})}
        body = json.dumps({"query": document, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise GraphqlError(f"HTTP {error.code}: {error.read().decode(errors='replace')[:2000]}") from error
        if answer.get("errors"):
            raise GraphqlError(json.dumps(answer["errors"])[:2000])
        data: dict[str, Any] = answer["data"]
        return data

    def _one(self, document: str, wanted: str, **variables: Any) -> dict[str, Any]:
        """Send a document with one field; anything but the wanted type is a refusal."""
        (found,) = self.call(document, **variables).values()
        if found["__typename"] != wanted:
            raise GraphqlError(f"{found['__typename']}: {found.get('message') or found}")
        return dict(found)

    # ------------------------------------------------------------------------------------------------------- looks

    def assets(self) -> set[tuple[str, ...]]:
        """Keys of the assets that the UI shows."""
        return {tuple(node["assetKey"]["path"]) for node in self.call(_ASSETS)["assetNodes"]}

    def partitions(self, key: Key) -> Partitions:
        """Say what the UI shows of an asset's partitions."""
        node = self._one(_PARTITIONS, "AssetNode", key={"path": list(key)})
        found = node["assetPartitionStatuses"]
        kinds = ("materialized", "failed", "materializing", "unmaterialized")
        return Partitions(**{kind: frozenset(found[f"{kind}Partitions"]) for kind in kinds})

    def materialization(self, key: Key, partition: str | None = None) -> dict[str, Any] | None:
        """Give the metadata of the latest materialization of an asset or its partition; None if there is none."""
        chosen = None if partition is None else [partition]
        node = self._one(_MATERIALIZATION, "AssetNode", key={"path": list(key)}, partitions=chosen)
        events = node["assetMaterializations"]
        return {entry["label"]: _value(entry) for entry in events[0]["metadataEntries"]} if events else None

    def runs(self, tags: Mapping[str, str] | None = None, *, job: str | None = None) -> list[Run]:
        """List the runs that have all of the tags, and that job if one is given; the latest first."""
        chosen: dict[str, Any] = {"tags": _pairs(tags or {})}
        if job is not None:
            chosen["pipelineName"] = job
        return [_run(entry) for entry in self._one(_RUNS, "Runs", filter=chosen)["results"]]

    def run(self, run_id: str) -> Run:
        """Look at one run."""
        return _run(self._one(_RUN, "Run", id=run_id))

    def messages(self, run_id: str, kind: str) -> list[str]:
        """Give the messages of a run's events of one kind.

        Parameters
        ----------
        run_id
            The run.
        kind
            Type of the event, e.g. ``RunFailureEvent``, ``RunCanceledEvent``, ``EngineEvent``.
        """
        events = self._one(_EVENTS, "EventConnection", id=run_id)["events"]
        return [event["message"] for event in events if event["__typename"] == kind]

    def backfill_status(self, backfill_id: str) -> Backfill:
        """Look at an asset backfill."""
        found = self._one(_BACKFILL, "PartitionBackfill", id=backfill_id)
        data = found["assetBackfillData"] or {"assetBackfillStatuses": []}
        counts = [entry for entry in data["assetBackfillStatuses"] if entry]
        return Backfill(
            status=found["status"],
            run_ids=tuple(run["runId"] for run in found["runs"]),
            materialized=sum(entry["numPartitionsMaterialized"] for entry in counts),
            failed=sum(entry["numPartitionsFailed"] for entry in counts),
            in_progress=sum(entry["numPartitionsInProgress"] for entry in counts),
        )

    # -------------------------------------------------------------------------------------------------------- acts

    def launch(
        self,
        keys: Sequence[Key] = (),
        partition: str | None = None,
        *,
        job: str = ASSET_JOB,
        tags: Mapping[str, str] | None = None,
    ) -> Launched:
        """Launch one run, as "Materialize" does for assets and "Launch run" for a job.

        Parameters
        ----------
        keys
            Assets to materialize; none for all of the job.
        partition
            Partition to materialize.
        job
            Name of the job.
        tags
            More tags of the run.
        """
        chosen = {"dagster/partition": partition} if partition else {}
        selector: dict[str, Any] = {**self._repository, "jobName": job}
        if keys:
            selector["assetSelection"] = [{"path": list(key)} for key in keys]
        params = {
            "mode": "default",
            "selector": selector,
            "runConfigData": {},
            "executionMetadata": {"tags": _pairs({**chosen, **(tags or {})})},
        }
        run = self._one(_LAUNCH, "LaunchRunSuccess", params=params)["run"]
        return Launched(run["runId"], run["status"])

    def backfill(self, keys: Sequence[Key], partitions: Sequence[str]) -> str:
        """Launch an asset backfill and give its id."""
        params = {
            "assetSelection": [{"path": list(key)} for key in keys],
            "partitionNames": list(partitions),
            "tags": [],
        }
        return str(self._one(_LAUNCH_BACKFILL, "LaunchBackfillSuccess", params=params)["backfillId"])

    def cancel_backfill(self, backfill_id: str) -> None:
        """Cancel a backfill."""
        self._one(_CANCEL_BACKFILL, "CancelBackfillSuccess", id=backfill_id)

    def reexecute(self, run_id: str, strategy: str = "ALL_STEPS") -> Launched:
        """Re-execute a run; the strategy is ``ALL_STEPS`` or ``FROM_FAILURE``."""
        params = {"parentRunId": run_id, "strategy": strategy}
        run = self._one(_REEXECUTE, "LaunchRunSuccess", params=params)["run"]
        return Launched(run["runId"], run["status"])

    def terminate(self, run_id: str, *, force: bool = False) -> None:
        """Terminate a run; ``force`` is the UI's tick "Force termination immediately"."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if force else "SAFE_TERMINATE"
        (result,) = self._one(_TERMINATE, "TerminateRunsResult", ids=[run_id], policy=policy)["terminateRunResults"]
        if result["__typename"] != "TerminateRunSuccess":
            raise GraphqlError(f"{result['__typename']}: {result.get('message')}")

    def reload(self) -> None:
        """Reload the code location."""
        self._one(_RELOAD, "WorkspaceLocationEntry", name=self.location)

    def start_sensor(self, name: str) -> None:
        """Switch a sensor on."""
        self._one(_START_SENSOR, "Sensor", selector={**self._repository, "sensorName": name})

    def stop_sensor(self, name: str) -> None:
        """Switch a sensor off; a tick under way goes on."""
        self._one(_STOP_SENSOR, "StopSensorMutationResult", id=self._sensor_state(name)["id"])

    def sensor_status(self, name: str) -> str:
        """Say whether a sensor is ``RUNNING`` or ``STOPPED``."""
        return str(self._sensor_state(name)["status"])

    def _sensor_state(self, name: str) -> dict[str, Any]:
        sensor = self._one(_SENSOR, "Sensor", selector={**self._repository, "sensorName": name})
        return dict(sensor["sensorState"])

    @property
    def _repository(self) -> dict[str, str]:
        return {"repositoryLocationName": self.location, "repositoryName": "__repository__"}


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _run(entry: Mapping[str, Any]) -> Run:
    tags = {tag["key"]: tag["value"] for tag in entry["tags"]}
    return Run(entry["runId"], entry["jobName"], entry["status"], entry["parentRunId"], tags)


def _value(entry: Mapping[str, Any]) -> Any:
    """Value of a metadata entry, whatever its type."""
    if "table" in entry:
        return [json.loads(record) for record in entry["table"]["records"]]
    if "jsonString" in entry:
        return json.loads(entry["jsonString"])
    return next((value for key, value in entry.items() if key not in ("__typename", "label")), None)


_ERRORS = "... on Error {message}"
_RUN_FIELDS = "runId jobName status parentRunId tags {key value}"

_ASSETS = "query {assetNodes {assetKey {path}}}"
_PARTITIONS = """query($key: AssetKeyInput!) {assetNodeOrError(assetKey: $key) {__typename ... on AssetNode {
    assetPartitionStatuses {... on DefaultPartitionStatuses {
        materializedPartitions failedPartitions materializingPartitions unmaterializedPartitions}}}}}"""
_MATERIALIZATION = """query($key: AssetKeyInput!, $partitions: [String!]) {
    assetNodeOrError(assetKey: $key) {__typename ... on AssetNode {
        assetMaterializations(partitions: $partitions, limit: 1) {metadataEntries {__typename label
            ... on TextMetadataEntry {text} ... on PathMetadataEntry {path} ... on IntMetadataEntry {intValue}
            ... on FloatMetadataEntry {floatValue} ... on MarkdownMetadataEntry {mdStr}
            ... on BoolMetadataEntry {boolValue} ... on JsonMetadataEntry {jsonString}
            ... on TableMetadataEntry {table {records}}}}}}}"""
_RUNS = f"""query($filter: RunsFilter!) {{runsOrError(filter: $filter) {{__typename
    ... on Runs {{results {{{_RUN_FIELDS}}}}} {_ERRORS}}}}}"""
_RUN = f"query($id: ID!) {{runOrError(runId: $id) {{__typename ... on Run {{{_RUN_FIELDS}}} {_ERRORS}}}}}"
_EVENTS = f"""query($id: ID!) {{logsForRun(runId: $id) {{__typename
    ... on EventConnection {{events {{__typename ... on MessageEvent {{message}}}}}} {_ERRORS}}}}}"""
_BACKFILL = f"""query($id: String!) {{partitionBackfillOrError(backfillId: $id) {{__typename
    ... on PartitionBackfill {{status runs {{runId}} assetBackfillData {{assetBackfillStatuses {{
        ... on AssetPartitionsStatusCounts {{
            numPartitionsMaterialized numPartitionsFailed numPartitionsInProgress}}}}}}}} {_ERRORS}}}}}"""
_LAUNCH = f"""mutation($params: ExecutionParams!) {{launchPipelineExecution(executionParams: $params) {{__typename
    ... on LaunchRunSuccess {{run {{runId status}}}} {_ERRORS}}}}}"""
_REEXECUTE = f"""mutation($params: ReexecutionParams!) {{
    launchPipelineReexecution(reexecutionParams: $params) {{__typename
    ... on LaunchRunSuccess {{run {{runId status}}}} {_ERRORS}}}}}"""
_LAUNCH_BACKFILL = f"""mutation($params: LaunchBackfillParams!) {{
    launchPartitionBackfill(backfillParams: $params) {{__typename
    ... on LaunchBackfillSuccess {{backfillId}} {_ERRORS}}}}}"""
_CANCEL_BACKFILL = f"""mutation($id: String!) {{cancelPartitionBackfill(backfillId: $id) {{__typename {_ERRORS}}}}}"""
_TERMINATE = f"""mutation($ids: [String!]!, $policy: TerminateRunPolicy) {{
    terminateRuns(runIds: $ids, terminatePolicy: $policy) {{__typename
    ... on TerminateRunsResult {{terminateRunResults {{__typename {_ERRORS}}}}} {_ERRORS}}}}}"""
_RELOAD = f"""mutation($name: String!) {{
    reloadRepositoryLocation(repositoryLocationName: $name) {{__typename {_ERRORS}}}}}"""
_START_SENSOR = f"""mutation($selector: SensorSelector!) {{
    startSensor(sensorSelector: $selector) {{__typename {_ERRORS}}}}}"""
_SENSOR = f"""query($selector: SensorSelector!) {{sensorOrError(sensorSelector: $selector) {{__typename
    ... on Sensor {{sensorState {{id status}}}} {_ERRORS}}}}}"""
_STOP_SENSOR = f"mutation($id: String!) {{stopSensor(id: $id) {{__typename {_ERRORS}}}}}"
