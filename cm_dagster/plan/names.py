"""What everything is called: collections, workflows, folders, assets, partitions.

Every name is a function of campaign, step, group, site and attempt number alone, so that any process can compute it
again after a crash and find what exists under it. Nothing else in the project puts such names together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase

__all__ = ["GROUP", "GROUP_DIGITS", "NAME", "AttemptId", "StepId", "group_name", "lane_name", "part_names"]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")
"""Campaigns, steps and sites: what a Dagster asset group, an asset key, a Butler collection and a folder all take."""

GROUP_DIGITS = 4
"""Least number of digits in a group's name: the order of names is the order of submission."""

GROUP = re.compile(r"g[0-9]{4,}[a-z]*")
"""Groups; with letters, parts of a group that was split."""

_WORKFLOW = re.compile(rf"({NAME.pattern})\.({NAME.pattern})\.({NAME.pattern})\.({GROUP.pattern})\.a([0-9]{{2,}})")
_RUN = re.compile(rf"({NAME.pattern})/({GROUP.pattern})/a([0-9]{{2,}})/run")


def group_name(index: int, total: int) -> str:
    """Name the group at a place of a step.

    Parameters
    ----------
    index
        Place of the group, from 0.
    total
        Number of groups of the step; it sets how many digits are needed so that names sort as places do.
    """
    digits = max(GROUP_DIGITS, len(str(max(total - 1, 0))))
    return f"g{index:0{digits}d}"


def lane_name(index: int, total: int, lane: int) -> str:
    """Name the group at a place of a lane: the groups of a step that one of several sites plans for itself.

    No lane shares a name with another one, however many groups any of them has, and nobody need know how many the
    others have: names of lane 0 are those of a step without lanes, ``g0007``, as long as four digits are enough; in
    all others the number of the lane comes first, ``g10007``. It is written so that no lane's number begins with that
    of another (9 and after are 90, 91, ...), which makes the first digits tell the lane whatever follows.

    Parameters
    ----------
    index
        Place of the group in its lane, from 0.
    total
        Number of groups of the lane.
    lane
        Number of the lane, from 0.
    """
    plain = group_name(index, total)
    if lane == 0 and len(plain) == 1 + GROUP_DIGITS:
        return plain
    return f"g{'9' * (lane // 9)}{lane % 9}{plain[1:]}"


def part_names(group: str, parts: int) -> list[str]:
    """Name the parts of a group that is split: they sort by order, in the place of the group.

    Parameters
    ----------
    group
        Name of the group.
    parts
        Number of parts, at most 26.
    """
    return [f"{group}{letter}" for letter in ascii_lowercase[:parts]]


@dataclass(frozen=True, order=True, slots=True)
class StepId:
    """A step of a campaign at one site."""

    campaign: str
    step: str
    site: str

    @property
    def tag(self) -> str:
        """Value of the run tag ``cm/step``, and name of the dynamic partitions of the step at the site."""
        return f"{self.campaign}/{self.step}/{self.site}"

    @property
    def asset(self) -> tuple[str, str, str]:
        """Asset key of the step at the site."""
        return (self.campaign, self.step, self.site)

    @property
    def job(self) -> str:
        """Name of the job whose runs are attempts at the step's groups."""
        return "__".join((*self.asset, "attempts"))

    @classmethod
    def from_tag(cls, tag: str) -> StepId:
        """Read the value of a ``cm/step`` tag.

        Raises
        ------
        ValueError
            If the tag is not of the form ``campaign/step/site``.
        """
        return _step(tag)


@lru_cache(1024)  # tens of thousands of attempts share a step
def _step(tag: str) -> StepId:
    parts = tag.split("/")
    if len(parts) != 3 or not all(NAME.fullmatch(part) for part in parts):
        raise ValueError(f"{tag!r} is not campaign/step/site")
    return StepId(*parts)


@dataclass(frozen=True, order=True, slots=True)
class AttemptId:
    """One attempt at one group: all names that belong to its workflow."""

    step: StepId
    group: str
    number: int
    """From 1."""

    def __post_init__(self) -> None:
        if not GROUP.fullmatch(self.group) or self.number < 1:
            raise ValueError(f"not a group and an attempt number: {self.group!r}, {self.number}")

    @classmethod
    def from_workflow(cls, name: str) -> AttemptId:
        """Read the name of a workflow.

        Raises
        ------
        ValueError
            If it is not the name of a workflow of ours.
        """
        match = _WORKFLOW.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is not CAMPAIGN.STEP.SITE.GROUP.aNN")
        campaign, step, site, group, number = match.groups()
        return cls(StepId(campaign, step, site), group, int(number))

    @classmethod
    def from_run(cls, name: str, *, campaign: str, output: str, site: str) -> AttemptId:
        """Read the name of a RUN collection; it does not tell the site.

        Parameters
        ----------
        name
            The name.
        campaign
            Name of the campaign.
        output
            The campaign's output.
        site
            The site.

        Raises
        ------
        ValueError
            If it is not the name of a RUN collection of the campaign's attempts.
        """
        match = _RUN.fullmatch(name.removeprefix(f"{output}/")) if name.startswith(f"{output}/") else None
        if match is None:
            raise ValueError(f"{name!r} is not {output}/STEP/GROUP/aNN/run")
        step, group, number = match.groups()
        return cls(StepId(campaign, step, site), group, int(number))

    @property
    def short(self) -> str:
        """Last part of names, e.g. ``a01``."""
        return f"a{self.number:02d}"

    @property
    def workflow(self) -> str:
        """Name of the workflow at the WMS (BPS: ``uniqProcName``); what a look-up asks for."""
        return f"{self.step.campaign}.{self.step.step}.{self.step.site}.{self.group}.{self.short}"

    def folder(self, area: Path) -> Path:
        """Folder of the attempt in a site's submit area."""
        return group_folder(area, self.step, self.group) / self.short

    def output(self, campaign_output: str) -> str:
        """Output chain of the attempt."""
        return f"{step_output(campaign_output, self.step.step)}/{self.group}/{self.short}"

    def run(self, campaign_output: str) -> str:
        """RUN collection of the attempt."""
        return f"{self.output(campaign_output)}/run"


def group_folder(area: Path, step: StepId, group: str) -> Path:
    """Folder of a group in a site's submit area; it holds the claims and a folder per attempt."""
    return area / step.campaign / step.step / group


def step_output(campaign_output: str, step: str) -> str:
    """Output chain of a step: the accepted RUN collections of all its groups."""
    return f"{campaign_output}/{step}"


def step_input(campaign_output: str, step: str) -> str:
    """Input chain of a step."""
    return f"{step_output(campaign_output, step)}/inputs"


def site_output(campaign_output: str, step: StepId) -> str:
    """Chain of what a site's groups of a step have given so far."""
    return f"{step_output(campaign_output, step.step)}/at/{step.site}"
