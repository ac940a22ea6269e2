"""Which campaigns a process's definitions are made of.

Uses of ``dagster._core``: `DefinitionsLoadContext`. A code server reads the ledger when it loads; each run's worker
must see the same campaigns as the server that launched it, also when others were created meanwhile, so what was read
travels with the run as Dagster's reconstruction metadata. Dagster's own integrations do the same; the class is not
documented. `DagsterGrpcClient.reload_code` is what the button "Reload" calls. `UnresolvedAssetJobDefinition` is only
the name of what `dagster.define_asset_job` returns.
"""

from __future__ import annotations

import json

import dagster as dg
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as AssetJob
from dagster._grpc.client import DagsterGrpcClient

from cm_dagster.ledger import campaigns
from cm_dagster.spec import CampaignSpec

__all__ = ["AssetJob", "load_specs", "reload_code_server"]

_KEY = "cm_dagster"


def load_specs() -> list[CampaignSpec]:
    """Read the campaigns that the definitions of this process are made of."""
    context = DefinitionsLoadContext.get()
    if context.load_type is DefinitionsLoadType.RECONSTRUCTION and _KEY in context.reconstruction_metadata:
        text = context.reconstruction_metadata[_KEY]
    else:
        with dg.DagsterInstance.get() as instance:
            text = _read(instance)
    context.add_to_pending_reconstruction_metadata(_KEY, text)
    return [CampaignSpec.model_validate(document) for document in json.loads(text)]


def _read(instance: dg.DagsterInstance) -> str:
    known = campaigns.load_all(instance).values()
    return json.dumps([each.spec.model_dump(mode="json") for each in known])


def reload_code_server(address: str) -> None:
    """Make a code server load its definitions again; its running runs go on.

    Parameters
    ----------
    address
        ``host:port`` of a ``dagster code-server``.
    """
    host, _, port = address.rpartition(":")
    DagsterGrpcClient(host=host, port=int(port)).reload_code(timeout=60)
