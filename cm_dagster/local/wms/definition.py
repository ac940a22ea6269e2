"""What a runner needs to know of a workflow: a plain file in the submit directory, written once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["ENVIRONMENT_FILE", "Job", "Options", "Workflow"]

_FILE = "local_wms.json"
ENVIRONMENT_FILE = "local_wms.env.json"
"""The submitter's environment, in the submit directory until a runner has taken it over; only its owner can read it."""


@dataclass(frozen=True)
class Options:
    """How a site runs jobs."""

    cores: int
    """Jobs of one core that run at once on this machine."""
    warm: bool
    """Whether jobs are forked from a process that has imported the stack."""
    preload: tuple[str, ...] = ()
    """Modules to import there besides the stack's commands."""


@dataclass(frozen=True)
class Job:
    """One job of a workflow."""

    name: str
    label: str
    command: str
    """Shell command; empty: the job only orders others."""
    environment: dict[str, str]
    """Variables to be set; their values may refer to others, as in a shell."""
    log: str
    """Path of the logs but for ``.<attempt>.out`` and ``.<attempt>.err``."""
    parents: tuple[str, ...] = ()
    cores: int = 1
    retries: int = 0
    """How often it is tried again when it fails."""
    final_exits: tuple[int, ...] = ()
    """Exit codes after which it is not tried again."""
    memory: int = 2048
    """Memory of the first try, in MB."""
    memory_factor: float = 1.0
    """By how much each further try has more."""
    memory_limit: int = 2**30
    """The most that it is given, in MB."""
    is_final: bool = False
    """Whether it runs at the end, whatever became of the others."""

    def memory_of(self, attempt: int) -> int:
        """Tell the memory of a try.

        Parameters
        ----------
        attempt
            Number of the try, from 1.

        Returns
        -------
        memory
            In MB.
        """
        return int(min(self.memory * self.memory_factor ** (attempt - 1), self.memory_limit))


@dataclass(frozen=True)
class Workflow:
    """A workflow."""

    name: str
    attributes: dict[str, str]
    """What BPS says about the run: operator, campaign, ..."""
    summary: str
    """Number of jobs by label, in BPS's notation."""
    options: Options
    jobs: tuple[Job, ...]

    def write(self, folder: Path) -> None:
        """Write the workflow's file.

        Parameters
        ----------
        folder
            The submit directory.
        """
        (folder / _FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Workflow:
        """Read the workflow's file.

        Parameters
        ----------
        folder
            The submit directory.

        Raises
        ------
        OSError
            If there is none.
        """
        fields = json.loads((folder / _FILE).read_text())
        options = fields.pop("options")
        jobs = [
            Job(**job | {"parents": tuple(job["parents"]), "final_exits": tuple(job["final_exits"])})
            for job in fields.pop("jobs")
        ]
        return cls(**fields, options=Options(**options | {"preload": tuple(options["preload"])}), jobs=tuple(jobs))
