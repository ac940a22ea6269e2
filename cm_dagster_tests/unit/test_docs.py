"""What the documents say is compared with the code."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cm_dagster.cli import cm
from cm_dagster.ledger import tags
from cm_dagster.policy.progress import CampaignState, StepState
from cm_dagster.policy.states import SHOWN_AS, TRANSITIONS, GroupState, State

TOP = Path(__file__).parents[2]
PILOT = (TOP / "docs/pilot-guide.md").read_text()


def test_each_state_of_an_attempt_stands_with_what_may_follow() -> None:
    rows = {
        cells[0].strip("`"): (cells[1], {word for word in cells[3].split(", ") if word})
        for line in PILOT.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }
    for state in State:
        shown, following = rows[state]
        assert shown == SHOWN_AS[state]
        assert following == {str(after) for after in TRANSITIONS[state]}


@pytest.mark.parametrize("word", [*GroupState, *StepState, *CampaignState])
def test_each_word_of_the_status_page_is_explained(word: str) -> None:
    assert f"`{word}`" in PILOT


def test_each_tag_that_people_see_is_named() -> None:
    text = (TOP / "docs/architecture.md").read_text()
    seen = [value for name, value in vars(tags).items() if name.isupper() and str(value).startswith("cm/")]
    rare = {tags.FINALIZED, tags.CANCELLED}
    assert [tag for tag in seen if f"`{tag}`" not in text and tag not in rare] == []


def test_each_command_is_in_the_reference() -> None:
    text = (TOP / "docs/cli.md").read_text()
    listed = CliRunner().invoke(cm, ["--help"]).output.partition("Commands:")[2]
    commands = re.findall(r"^  (\w+) ", listed, re.MULTILINE)
    assert len(commands) > 5
    assert [name for name in commands if f"`cm {name}" not in text] == []


@pytest.mark.parametrize("path", [TOP / "README.md", *(TOP / "docs").glob("*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    assert [t for t in targets if not t.startswith("http") and not (path.parent / t).exists()] == []
