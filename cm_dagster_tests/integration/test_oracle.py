"""The oracle on real ledgers: a right campaign has no finding, a doctored one has just the finding that it should."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_run_for_test
from lsst.daf.butler import Butler, CollectionType

from cm_dagster.control.steps import collected_key
from cm_dagster.ledger import events, overrule, tags
from cm_dagster.plan.names import StepId
from cm_dagster.services.wms import WmsClient, WmsState
from cm_dagster.testing.fakewms.store import HOME, FakeWms, Fault
from cm_dagster.testing.oracle import Findings, examine
from cm_dagster.testing.oracle.__main__ import main
from cm_dagster_tests.integration.ledger_rig import SITE, STEP1, Rig, make_spec
from cm_dagster_tests.integration.stand_ins import ScriptedWms

STEP2 = StepId("camp", "step2", SITE)
SERVICE = "cm_dagster.testing.fakewms.service.FakeWmsService"
RUNS = {"step1": ("g0000", "g0001"), "step2": ("g0000",)}


class RecordedWms(ScriptedWms):
    """Submits to a fake WMS, which keeps a log."""

    def __init__(self, fake: FakeWms, area: Path) -> None:
        super().__init__()
        self.fake = fake
        self.area = area

    def add(self, name: str, state: WmsState = WmsState.RUNNING) -> str:
        folder = self.area / "-".join(name.split(".")) / "submit-1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bps.yaml").touch()
        return self.fake.submit(name, str(folder))


class Ground:
    """A campaign of two steps in a real ledger, whose workflows are at a fake WMS."""

    def __init__(self, rig: Rig, repo: str) -> None:
        self.rig = rig
        self.repo = repo
        self.instance = rig.instance
        self.fake = FakeWms(rig.folder / "fake")
        rig.wms = RecordedWms(self.fake, rig.folder / "submitted")
        rig.create(make_spec(steps={"step1": {"pipeline": "#a"}, "step2": {"pipeline": "#b", "needs": ["step1"]}}))

    def examine(self, *, running: bool = False) -> Findings:
        return examine(self.fake.home, self.instance, butler=self.repo, running=running)

    def count(self, *, running: bool = False) -> dict[str, int]:
        return {kind: n for kind, n in self.examine(running=running).counts.items() if n}

    def plan(self, step: str) -> None:
        self.rig.plan(len(RUNS[step]), step)

    def begin(self, group: str, number: int = 1, step: StepId = STEP1, state: str = "RUNNING") -> str:
        """Begin an attempt whose workflow comes to a state."""
        run_id = self.rig.begin(group, number, step)
        self.fake.set(self.rig.attempt(run_id).wms_id, state)
        return run_id

    def accept(self, group: str, number: int = 1, step: StepId = STEP1, state: str = "SUCCEEDED") -> str:
        run_id = self.begin(group, number, step, state)
        events.accept(
            self.instance,
            events.Acceptance(self.rig.attempt(run_id), "good", {"quanta expected": 4, "quanta registered": 4}),
        )
        return run_id

    def fail(self, group: str, number: int = 1, state: str = "FAILED", registered: int = 4) -> str:
        run_id = self.begin(group, number, STEP1, state)
        metadata = {"quanta expected": 4, "quanta registered": registered}
        events.fail(self.instance, self.rig.attempt(run_id), "bad", metadata)
        return run_id

    def cancel(self, group: str, number: int = 1, more: dict[str, str] | None = None) -> str:
        """Have a person terminate a running attempt."""
        run_id = self.begin(group, number)
        self.instance.add_run_tags(run_id, more or {})
        self.rig.terminate(run_id)
        self.fake.cancel(self.rig.attempt(run_id).wms_id)
        events.cancelled(self.instance, run_id, "done", swept=True)
        return run_id

    def collect(self, step: str) -> None:
        self.rig.materialize(collected_key("camp", step))

    def finish(self, *, without: str = "") -> None:
        """Do the rest: the groups of the first step that are not done, and all of the second."""
        done = self.instance.get_materialized_partitions(dg.AssetKey(STEP1.asset))
        for group in RUNS["step1"]:
            if group not in done | {without}:
                self.accept(group)
        self.collect("step1")
        self.plan("step2")
        self.accept("g0000", 1, STEP2)
        self.collect("step2")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Butler repository with the chains of a campaign whose second group of step 1 took a second attempt."""
    folder = tmp_path_factory.mktemp("butler") / "repo"
    Butler.makeRepo(str(folder))
    with Butler.from_config(str(folder), writeable=True) as butler:
        for step, groups in RUNS.items():
            numbers = {"g0000": 1, "g0001": 2}
            runs = [f"u/camp/{step}/{group}/a{numbers[group]:02d}/run" for group in groups]
            for run in runs:
                butler.collections.register(run)
            for chain in (f"u/camp/{step}", f"u/camp/{step}/at/{SITE}"):
                butler.collections.register(chain, CollectionType.CHAINED)
                butler.collections.redefine_chain(chain, runs)
    return str(folder)


@pytest.fixture
def ground(rig: Rig, repo: str, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setenv(HOME, str(rig.folder / "fake"))
    made = Ground(rig, repo)
    made.plan("step1")
    return made


def complete(ground: Ground) -> None:
    ground.accept("g0000")
    ground.fail("g0001")
    ground.accept("g0001", 2)
    ground.finish()


def test_a_right_campaign(ground: Ground) -> None:
    ground.accept("g0000")
    ground.fail("g0001")
    ground.rig.queue("g0001", 2)
    assert ground.count(running=True) == {}
    (run,) = ground.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    ground.instance.report_run_canceled(run, "cm_dagster does not take this run: it makes no sense")
    ground.accept("g0001", 2)
    assert ground.count(running=True) == {}
    ground.finish()
    assert ground.examine().lines == ()
    # The same by what a plugin reports, which knows no times of submission.
    client = WmsClient(SERVICE)
    assert examine(client.report_all(1).values(), ground.instance, butler=ground.repo).lines == ()


def test_a_campaign_of_which_nothing_is_done(ground: Ground) -> None:
    assert ground.count(running=True) == {}
    assert ground.count() == {"lost": 4}  # two groups, a step that is not collected, another that is not planned


def test_a_group_that_nobody_did(ground: Ground) -> None:
    ground.fail("g0001")
    ground.finish(without="g0001")
    assert "lost: camp.step1.here.g0001: no attempt at this group was accepted" in ground.examine().lines
    assert ground.count() == {"lost": 1, "early": 1}


def test_a_workflow_that_nobody_knows(ground: Ground) -> None:
    complete(ground)
    ground.rig.wms.add("camp.step1.here.g0001.a03")
    assert ground.count() == {"lost": 1, "redone": 1}


def test_a_workflow_that_the_wms_lost(ground: Ground) -> None:
    complete(ground)
    run_id = ground.accept("g0000", 2)
    ground.instance.add_run_tags(run_id, {tags.WMS_ID: "77"})
    texts = "\n".join(ground.examine().lines)
    assert "the WMS has no workflow '77'" in texts
    assert "camp.step1.here.g0000.a02: no attempt records workflow 5" in texts


def test_a_workflow_that_did_not_succeed(ground: Ground) -> None:
    complete(ground)
    ground.fake.set("1", "RUNNING")
    assert ground.count() == ground.count(running=True) == {"lost": 1}
    ground.fake.set("1", "FAILED")  # but all quanta are registered
    assert ground.count() == {}


def test_an_output_that_is_not_chained(ground: Ground) -> None:
    ground.accept("g0001")
    ground.finish()
    assert ground.count(running=True) == {}
    assert ground.count() == {"lost": 2}  # of the step and of the site: they have attempt 2
    assert "u/camp/step1/g0001/a01/run is not in the chain u/camp/step1" in ground.examine().lines[0]


def test_runs_that_never_end(ground: Ground) -> None:
    complete(ground)
    ground.rig.queue("g0000", 2)
    selection = frozenset({dg.AssetKey(STEP1.asset)})
    create_run_for_test(ground.instance, status=dg.DagsterRunStatus.NOT_STARTED, asset_selection=selection)
    assert ground.count(running=True) == {}
    assert ground.count() == {"lost": 2}


def test_twins(ground: Ground) -> None:
    ground.fake.script(Fault("twin"))
    ground.accept("g0000")
    assert ground.count(running=True) == {}
    twin = ground.fake.workflows()[1].wms_id
    ground.fail("g0001")
    ground.accept("g0001", 2)
    ground.finish()
    assert ground.count() == {"twins": 1}
    ground.fake.cancel(twin)
    assert ground.count() == {}
    assert (ground.examine().cancelled_twins, ground.examine().resubmitted) == (1, 0)
    ground.fake.cancel(ground.fake.submit(ground.fake.workflows()[0].name, "/again"))
    assert ground.count() == {}
    assert (ground.examine().cancelled_twins, ground.examine().resubmitted) == (2, 1)
    ground.fake.set(twin, "SUCCEEDED")
    assert ground.count() == ground.count(running=True) == {"twins": 1}


def test_two_attempts_at_once(ground: Ground) -> None:
    first = ground.begin("g0000")
    ground.begin("g0000", 2)
    assert ground.count(running=True) == {"twins": 1, "redone": 1}
    assert f"attempts 1 (run {first})" in ground.examine(running=True).lines[0]


@pytest.mark.parametrize(
    ("state", "registered", "redone"), [("FAILED", 4, 0), ("DELETED", 4, 0), ("SUCCEEDED", 3, 0), ("SUCCEEDED", 4, 1)]
)
def test_a_retry_needs_a_real_failure(ground: Ground, state: str, registered: int, redone: int) -> None:
    ground.fail("g0001", 1, state, registered)
    ground.accept("g0001", 2)
    assert ground.examine(running=True).redone == redone


def test_what_a_person_decides_is_a_good_reason(ground: Ground) -> None:
    rejected = ground.accept("g0000")
    overrule.reject(ground.instance, ground.rig.attempt(rejected), "Rejected by ann: wrong flats.")
    ground.accept("g0000", 2)
    failed = ground.fail("g0001", registered=1)
    metadata: events.Metadata = {"verdict": "accepted by ann: enough", "quanta registered": 1}
    overrule.accept_by_hand(ground.instance, ground.rig.attempt(failed), "Accepted by ann: enough.", metadata)
    assert ground.examine(running=True).lines == ()


@pytest.mark.parametrize("by_person", [True, False])
def test_an_accepted_group_is_done_again_only_by_a_persons_wish(ground: Ground, by_person: bool) -> None:
    first = ground.accept("g0000")
    launched = {} if by_person else {tags.BY: "dispatch"}
    second = ground.rig.queue("g0000", 2, parent=first, more=launched)
    events.start(ground.instance, ground.rig.attempt(second))
    ground.rig.wms.add("camp.step1.here.g0000.a02")
    assert ground.count(running=True) == ({} if by_person else {"redone": 1})


@pytest.mark.parametrize("status", [None, BulkActionStatus.CANCELED, BulkActionStatus.FAILED])
def test_a_cancelled_attempt_is_done_again_only_if_a_person_cancelled_it(
    ground: Ground, status: BulkActionStatus | None
) -> None:
    more = {"dagster/backfill": "b1"} if status else None
    if status:
        ground.instance.add_backfill(
            PartitionBackfill("b1", status=status, from_failure=False, tags={}, backfill_timestamp=0.0)
        )
    ground.cancel("g0001", more=more)
    ground.accept("g0001", 2)
    assert ground.count(running=True) == ({"redone": 1} if status is BulkActionStatus.FAILED else {})


def test_a_step_that_began_too_early(ground: Ground) -> None:
    ground.accept("g0000")
    ground.plan("step2")
    ground.accept("g0000", 1, STEP2)
    assert ground.count(running=True) == {"early": 1}
    ground.accept("g0001")
    ground.rig.begin("g0000", 2, STEP2)
    assert "1 of 2 groups of camp.step1 were accepted, e.g. g0001" in ground.examine(running=True).lines[-2]
    assert "before camp.step1 was collected" in ground.examine(running=True).lines[-1]


def test_what_the_program_says(ground: Ground, tmp_path: Path) -> None:
    def run(*words: str | Path) -> Result:
        return CliRunner().invoke(main, [*map(str, words), "--dagster", ground.instance.root_directory])

    complete(ground)
    good = run("--wms", ground.fake.home, "--butler", ground.repo)
    assert (good.stdout, good.exit_code) == ("lost 0 twins 0 redone 0 early 0\n", 0)
    ground.begin("g0000", 2)
    bad = run("--service", SERVICE, "--running", "--campaign", "camp")
    assert bad.exit_code == 1
    assert bad.stdout.startswith("lost 0 twins 0 redone 1 early 0\nredone: camp.step1.here.g0000.a02: submitted as 5")
    assert run("--wms", ground.fake.home, "--running", "--campaign", "another").exit_code == 0
    ground.fake.script(Fault("down"))
    for untold in (run("--wms", tmp_path / "nowhere"), run("--service", SERVICE), run()):
        assert untold.exit_code == 2
        assert untold.stdout == ""
        assert untold.stderr
