"""The keys that BPS knows, because BPS itself accepts a misspelt one in silence.

Sources: ``etc/bps_defaults.yaml``, the code and the quick start of lsst.ctrl.bps 30.2026.4300 (job settings are the
fields of its ``GenericWorkflowJob`` in camel case), and code, defaults and site examples of its plugins for HTCondor
(30.2026.300), PanDA (30.0.0) and Parsl (30.2026.4300), and our own (`cm_dagster.local.wms`). A test compares this
module with the installed packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["NUMBERED", "OWNED", "SECTIONS", "SETTINGS", "Section"]

_JOB = """
    abortOnValue abortReturnValue accountingGroup accountingUser arguments attrs category cmdvals computeCloud
    concurrencyLimit environment executable label mailTo memoryMultiplier name numberOfRetries postCmdline preCmdline
    preemptible priority profile quantaCounts queue requestCpus requestDisk requestMemory requestMemoryMax
    requestWalltime retryUnlessExit tags whenToMail
"""

_GENERAL = """
    bpsBatchSubmission bpsGenerateConfig bpsMakeCommand bpsPreCommandOpts bpsUseRunTempSpace bpsUseShared
    clusterAlgorithm createQuantumGraph defaultPreCmdOpts dryRun executeMachinesPattern executionButlerTemplate
    extraAggregateOptions extraInitOptions extraQgraphOptions extraRunQuantumOptions extraUpdateQgraphOptions
    fileDistributionEndpoint fileDistributionEndPoint idLinkPath includeConfigs initPreCmdOpts makeIdLink
    memoryLimit pipetaskDataQuery pipetaskInput pipetaskOutput qgraphFileTemplate qgraphPreCmdOpts runPreCmdOpts
    runQuantumCommand saveClusteredQgraph saveDot saveGenericWorkflow saveQgraph subDirTemplate templateDataId
    updateQgraphPreCmdOpts updateQuantumGraph useBpsShared useLazyCommands useNodeIdInClusterName
    validateClusteredQgraph whenSaveJobQgraph
"""

_HTCONDOR = "overwriteJobFiles provisionResources releaseExpr"

_PANDA = """
    LSST_VERSION computingCloud custom_lsst_setup dockerImageLocation enableEventService enableJobNameMap enableQnodeMap
    fileDistributionEndPointDefault iddsServer jobCleanup jobContainer jobInitDir jobLogDir maxCopyWorkers
    maxJobsPerTask maxPayloadsPerPandaJob maxRequestLength maxWmsJobWalltime orderIdMapFilename payloadCommand
    payloadFolder placeholderParams processingType prodSourceLabel runnerCommand s3EndpointUrl setupLSSTEnv sw_image
    taskType vo
"""

SETTINGS: frozenset[str] = frozenset(f"{_JOB} {_GENERAL} {_HTCONDOR} {_PANDA}".split())
"""Settings that BPS looks up by name through its sections, so that each may stand at the top or in any section."""

NUMBERED = r"command\d+"
"""Settings of a job that is a list of commands: ``command1``, ``command2`` ..."""


@dataclass(frozen=True)
class Section:
    """A mapping that BPS gives a meaning of its own."""

    named: bool = False
    """Whether it holds one mapping per name (a task's label, a site ...) instead of settings."""
    free: bool = False
    """Whether its keys are not BPS's: environment variables, DAGMan's settings, attributes of a batch system."""
    settings: bool = True
    """Whether all SETTINGS may stand in it too."""
    own: frozenset[str] = frozenset()
    """Further keys that it takes."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CLUSTER = """
    clusterTemplate dimensions equalDimensions findDependencyMethod partitionDimensions partitionMaxClusters
    partitionMaxSize pipetasks
"""
_LOCAL_SITE = "cores preload warm"

_PARSL_SITE = """
    account class cmd_timeout commandPrefix constraint cores cores_per_node exclusive init_blocks large large_memory
    large_walltime max_blocks medium medium_memory medium_walltime mem_per_node memory min_blocks monitorEnable
    monitorFilename monitorInterval nodes nodes_per_block partition port qos queue retries run_dir scheduler_options
    singleton small small_memory small_walltime strategy tasks_per_node walltime worker_init worker_options
    wq_max_retries xlarge
"""
_PROVISIONING = """
    provisioningAccountingUser provisioningCheckInterval provisioningExtraOptions provisioningMaxIdleTime
    provisioningMaxWallTime provisioningNodeCount provisioningPlatform provisioningQueue provisioningScript
    provisioningScriptConfig provisioningScriptConfigPath
"""
_EXECUTION_BUTLER = "createCommand executionButlerDir implementation whenCreate whenMerge"

SECTIONS: MappingProxyType[str, Section] = MappingProxyType(
    {
        "attrs": Section(free=True),
        "buildQuantumGraph": Section(own=_words("jobCommand")),
        "cloud": Section(named=True),
        "cluster": Section(named=True, own=_words(_CLUSTER)),
        "cmdvals": Section(free=True),
        "environment": Section(free=True),
        "executionButler": Section(own=_words(_EXECUTION_BUTLER)),
        "finalJob": Section(own=_words("finalPreCmdOpts implementation updateOutputChain whenSetup")),
        "ordering": Section(
            named=True,
            settings=False,
            own=_words("blocking dimensions equalDimensions findDependencyMethod implementation labels ordering_type"),
        ),
        "parsl": Section(settings=False, own=_words("log_level")),
        "payload": Section(own=_words("runInit")),
        "pipetask": Section(named=True),
        "preparePayloadWorkflow": Section(own=_words("jobCommand")),
        "profile": Section(free=True),
        "provisioning": Section(settings=False, own=_words(_PROVISIONING)),
        "remoteBuild": Section(own=_words("enabled files")),
        "site": Section(named=True, own=_words(_PARSL_SITE) | _words(_LOCAL_SITE)),
        "wmsConfig": Section(free=True),
    }
)
"""Mappings of a BPS configuration, by key."""

OWNED: MappingProxyType[str, str] = MappingProxyType(
    {
        "butlerConfig": "cm_dagster sets it: use `butler: {repo: ...}`, or the site's `butler`",
        "campaign": "cm_dagster sets it to the campaign's name",
        "computeSite": "cm_dagster sets it: use the site's `wms: {compute_site: ...}`",
        "customJob": "it is for `bps submitcmd`; a campaign's workflows are made from pipelines",
        "dataQuery": "cm_dagster sets it for each group: use `where` of `butler` or of the step",
        "inCollection": "cm_dagster sets it to the step's input chain: use `input` of `butler` or of the step",
        "outCollection": "BPS has dropped it, and cm_dagster names the collections of each attempt",
        "operator": "cm_dagster sets it to who runs the campaign",
        "output": "cm_dagster names the collections of each attempt: use `output` of `butler`",
        "outputRun": "cm_dagster names the collections of each attempt: use `output` of `butler`",
        "payloadName": "cm_dagster sets it from campaign, step and group",
        "pipelineYaml": "cm_dagster sets it: use `pipeline` of the campaign or of the step",
        "project": "cm_dagster sets it",
        "qgraphFile": "cm_dagster has a quantum graph made for each group",
        "submitPath": "cm_dagster gives each attempt a folder in the site's `submit_area`",
        "timestamp": "BPS sets it",
        "uniqProcName": "cm_dagster sets it: by this name it finds a workflow again",
        "whenRun": "without its final job a workflow succeeds but its outputs stay unknown to the Butler",
        "wmsServiceClass": "cm_dagster sets it: use the site's `wms: {service: ...}`",
    }
)
"""Keys that are not the user's to set, with the reason."""
