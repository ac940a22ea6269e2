"""Dagster's list of code locations, ``workspace.yaml``: where the code server of each site is, and whether it answers.

Uses of ``dagster._core``: `location_origins_from_yaml_paths` reads the file as webserver and daemon do, values from
the environment included (`CheckError` is what it raises too); `GrpcServerCodeLocationOrigin` is what it gives for a
code server. `DagsterGrpcClient.get_server_id` is what webserver and daemon themselves ask, every second,
`list_repositories` how they load a location, and `DagsterUserCodeUnreachableError` what both raise.
"""

from __future__ import annotations

from pathlib import Path

from dagster import DagsterError
from dagster._check import CheckError
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster._grpc.client import DagsterGrpcClient

from cm_dagster.errors import LedgerError

__all__ = ["addresses", "ping"]


def addresses(workspace: Path) -> dict[str, tuple[str, int]]:
    """Read where the code servers are: host and port by name of the code location.

    Parameters
    ----------
    workspace
        The file.

    Raises
    ------
    LedgerError
        If it can't be read, or is wrong.
    """
    advice = "write it like the workspace.yaml that comes with cm_dagster, and name it in CM_WORKSPACE"
    try:
        origins = location_origins_from_yaml_paths([str(workspace)])
    except (OSError, ValueError, CheckError, DagsterError) as error:
        raise LedgerError(f"{workspace} can't be read: {error}", advice=advice) from error
    servers = (origin for origin in origins if isinstance(origin, GrpcServerCodeLocationOrigin))
    return {server.location_name: (server.host, server.port) for server in servers if server.port}


def ping(host: str, port: int, timeout: int = 5) -> str:
    """Ask a code server whether it and its definitions are there; gives what is wrong, empty if all answers.

    Parameters
    ----------
    host, port
        Where it is.
    timeout
        Seconds after which the first question is given up.
    """
    try:
        client = DagsterGrpcClient(host=host, port=port)
        client.get_server_id(timeout=timeout)
        client.list_repositories()  # of the process that has the definitions, which may be gone while its parent is not
    except DagsterUserCodeUnreachableError as error:
        return str(error.__cause__ or error).strip().partition("\n")[0]
    return ""
