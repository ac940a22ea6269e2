"""Campaign and site files: models, loading with good messages, JSON schema, comparison, drafts."""

from cm_dagster.spec.allotment import Allotment
from cm_dagster.spec.diff import diff
from cm_dagster.spec.draft import DraftInput, DraftStep, draft_campaign
from cm_dagster.spec.limits import Brake, CampaignLimits, LimitsSpec, RampUp
from cm_dagster.spec.loading import load_campaign, load_sites
from cm_dagster.spec.models import (
    Accept,
    ButlerInputs,
    CampaignSpec,
    GroupBy,
    ResolvedSettings,
    Retry,
    StackSpec,
    StepSettings,
    StepSpec,
)
from cm_dagster.spec.rules import Rule
from cm_dagster.spec.schema import json_schema
from cm_dagster.spec.sites import BackoffSpec, Sites, SiteSpec, SiteStack, SubmitSpec, WmsSpec

__all__ = [
    "Accept",
    "Allotment",
    "BackoffSpec",
    "Brake",
    "ButlerInputs",
    "CampaignLimits",
    "CampaignSpec",
    "DraftInput",
    "DraftStep",
    "GroupBy",
    "LimitsSpec",
    "RampUp",
    "ResolvedSettings",
    "Retry",
    "Rule",
    "SiteSpec",
    "SiteStack",
    "Sites",
    "StackSpec",
    "StepSettings",
    "StepSpec",
    "SubmitSpec",
    "WmsSpec",
    "diff",
    "draft_campaign",
    "json_schema",
    "load_campaign",
    "load_sites",
]
