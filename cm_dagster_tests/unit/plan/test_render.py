"""What is handed to BPS: the configuration and the scripts."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lsst.ctrl.bps import BPS_DEFAULTS, BPS_SEARCH_ORDER, BpsConfig

from cm_dagster.errors import PlanError
from cm_dagster.plan.groups import Group
from cm_dagster.plan.names import AttemptId, StepId
from cm_dagster.plan.render import READY_LINE, TryPaths, bps_config, data_query, submit_script
from cm_dagster.spec.models import CampaignSpec, StackSpec
from cm_dagster.spec.sites import SiteSpec

ATTEMPT = AttemptId(StepId("w43", "step1", "usdf"), "g0007", 2)
PATHS = TryPaths(Path("/area/w43/step1/g0007/a02"), 3)


def campaign(**changes: Any) -> CampaignSpec:
    text: dict[str, Any] = {
        "campaign": "w43",
        "butler": {"input": ["HSC/defaults"], "output": "u/w43"},
        "pipeline": "${DRP_PIPE_DIR}/DRP.yaml",
        "sites": "usdf",
        "steps": {"step1": {"pipeline": "#step1"}},
    }
    return CampaignSpec.model_validate(text | changes)


def site(**changes: Any) -> SiteSpec:
    text: dict[str, Any] = {
        "butler": "/repo/usdf",
        "submit_area": "/area",
        "wms": {"service": "lsst.ctrl.bps.panda.PanDAService", "compute_site": "SLAC"},
    }
    return SiteSpec.model_validate(text | changes)


def render(
    spec: CampaignSpec | None = None, at: SiteSpec | None = None, where: str = "visit = 1", **more: Any
) -> dict[str, Any]:
    group = Group("g0007", where, 1, None, "visit 1")
    return bps_config(
        spec or campaign(), at or site(), group, ATTEMPT, PATHS, inputs="u/w43/step1/inputs", operator="ann", **more
    )


def test_configuration_of_an_attempt() -> None:
    assert render() == {
        "finalJob": {"requestCpus": 1, "requestMemory": 4096},
        "uniqProcName": "w43.step1.usdf.g0007.a02",
        "operator": "ann",
        "project": "cm",
        "campaign": "w43",
        "submitPath": "/area/w43/step1/g0007/a02/submit-3",
        "pipelineYaml": "${DRP_PIPE_DIR}/DRP.yaml#step1",
        "wmsServiceClass": "lsst.ctrl.bps.panda.PanDAService",
        "computeSite": "SLAC",
        "payload": {
            "payloadName": "step1_g0007_a02",
            "butlerConfig": "/repo/usdf",
            "inCollection": "u/w43/step1/inputs",
            "output": "u/w43/step1/g0007/a02",
            "outputRun": "u/w43/step1/g0007/a02/run",
            "dataQuery": "visit = 1",
        },
        "extraAggregateOptions": "-o /area/w43/step1/g0007/a02/submit-3/provenance.qg",
    }


def test_sections_are_laid_over_each_other() -> None:
    spec = campaign(
        bps={"requestMemory": 3000, "pipetask": {"isr": {"requestMemory": 1, "requestCpus": 2}}},
        defaults={"bps": {"requestMemory": 4000}},
        steps={"step1": {"pipeline": "#step1", "bps": {"pipetask": {"isr": {"requestMemory": 9000}}}}},
    )
    at = site(bps={"requestMemory": 2000, "numberOfRetries": 2, "finalJob": {"requestMemory": 8192}})
    config = render(spec, at)
    assert config["requestMemory"] == 4000
    assert config["numberOfRetries"] == 2
    assert config["pipetask"] == {"isr": {"requestMemory": 9000, "requestCpus": 2}}
    assert config["finalJob"] == {"requestCpus": 1, "requestMemory": 8192}


def test_included_files_add_up_and_options_are_kept() -> None:
    spec = campaign(bps={"includeConfigs": "drp.yaml", "extraAggregateOptions": "--mock"})
    config = render(spec, site(bps={"includeConfigs": ["site.yaml", "more.yaml"]}))
    assert config["includeConfigs"] == ["site.yaml", "more.yaml", "drp.yaml"]
    assert config["extraAggregateOptions"].startswith("--mock -o ")


def test_campaigns_repository_wins_over_the_sites() -> None:
    spec = campaign(butler={"repo": "main", "input": ["HSC/defaults"], "output": "u/w43"})
    assert render(spec)["payload"]["butlerConfig"] == "main"


def test_rescue_skips_what_former_runs_have() -> None:
    config = render(rescued=["u/w43/step1/g0007/a01/run", "u/old"])
    assert config["payload"]["inCollection"] == "u/w43/step1/g0007/a01/run,u/old,u/w43/step1/inputs"
    assert config["extraQgraphOptions"] == "--skip-existing-in u/w43/step1/g0007/a01/run,u/old"


def test_memory_of_an_attempt_wins_over_all_sections() -> None:
    spec = campaign(bps={"pipetask": {"isr": {"requestMemory": 1, "requestCpus": 2}}, "finalJob": {"requestMemory": 2}})
    config = render(spec, memory={"pipetask/isr": 4096, "cluster/visit": 9000, "finalJob": 5000})
    assert config["pipetask"] == {"isr": {"requestMemory": 4096, "requestCpus": 2}}
    assert config["cluster"] == {"visit": {"requestMemory": 9000}}
    assert config["finalJob"]["requestMemory"] == 5000
    assert "cluster" not in render(spec)


PREDICATES = st.text(st.sampled_from("abz019_ '\"\\()<>=!,.;:&|*%#~-+/[]?\té"), min_size=1, max_size=60).filter(
    lambda text: "bpsEval" not in text and text.strip() == text
)


@given(PREDICATES)
def test_predicate_reaches_pipetask_as_it_is(where: str) -> None:
    text = yaml.safe_dump(render(where=where))
    config = BpsConfig(
        yaml.safe_load(text) | {"wmsServiceClass": "lsst.ctrl.bps.BaseWmsService"},
        search_order=BPS_SEARCH_ORDER,
        defaults=BPS_DEFAULTS,
        wms_service_class_fqn="lsst.ctrl.bps.BaseWmsService",
    )
    _, command = config.search("createQuantumGraph", opt={"curvals": {"qgraphFile": "x.qg"}})
    argv = shlex.split(command)
    assert argv[argv.index("-d") + 1] == where


def test_lines_of_a_predicate_are_joined() -> None:
    assert data_query("a = 1\nAND b = 2\n") == "a = 1 AND b = 2"


@pytest.mark.parametrize("where", ["a = '$HOME'", "a = '{visit}'", "a = 'bpsEval(f, 1)'", "a = '<ENV:HOME>'"])
def test_what_bps_would_replace_is_refused(where: str) -> None:
    with pytest.raises(PlanError, match="BPS would replace"):
        render(where=where)


def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], env=os.environ | env, capture_output=True, text=True, check=False, timeout=30
    )


def test_script_prepares_the_environment() -> None:
    at = site(env={"GREETING": 'a "quoted" $WHO `x` $(y)', "OMP_NUM_THREADS": "2"}, stack={"setup": "WHAT=$GREETING"})
    show = 'echo "$WHAT|${PYTHONDONTWRITEBYTECODE:-unset}|$OMP_NUM_THREADS|$MKL_NUM_THREADS|${PATH%%:*}"'
    script = submit_script(StackSpec(), at, ["bash", "-c", f"export WHAT; {show}"], path=["/our bin"])
    # The command sees what is exported; the site's own set-up line is not.
    assert "WHAT=$GREETING" in script.splitlines()
    done = run(script, WHO="you", PYTHONDONTWRITEBYTECODE="1", MKL_NUM_THREADS="5")
    assert done.stdout == "|unset|2|5|/our bin\n"
    assert READY_LINE in done.stderr
    echo = run(submit_script(StackSpec(), at, ["bash", "-c", 'echo "$GREETING"']), WHO="you")
    assert echo.stdout == 'a "quoted" you `x` $(y)\n'


def test_script_stops_where_the_stack_is_missing(tmp_path: Path) -> None:
    eups = StackSpec(setup="eups", version="w_2026_43")
    bare = run(submit_script(eups, site(), ["echo", "went on"]), RUBIN_EUPS_PATH="")
    absent = run(submit_script(eups, site(env={"RUBIN_EUPS_PATH": str(tmp_path)}), ["echo", "went on"]))
    for done in (bare, absent):
        assert done.returncode != 0
        assert "went on" not in done.stdout
        assert READY_LINE not in done.stderr


def test_script_sets_up_an_eups_stack(tmp_path: Path) -> None:
    (tmp_path / "loadLSST.bash").write_text('echo "$NOT_SET"; setup() { echo "setup $*"; }\n')
    script = submit_script(
        StackSpec(setup="eups", version="w_2026_43"), site(env={"RUBIN_EUPS_PATH": str(tmp_path)}), ["echo", "a b"]
    )
    assert run(script).stdout.split("\n") == ["", "setup lsst_distrib -t w_2026_43", "a b", ""]


def test_script_runs_the_campaigns_own_lines() -> None:
    stack = StackSpec(setup="script", script="export STACK=mine\necho $UNSET")
    assert run(submit_script(stack, site(), ["bash", "-c", "echo $STACK"])).stdout == "\nmine\n"
