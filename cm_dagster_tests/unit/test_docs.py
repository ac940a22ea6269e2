"""What the documents say is compared with the code."""

import ast
import inspect
import itertools
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cm_dagster.cli import cm
from cm_dagster.ledger import tags
from cm_dagster.policy.progress import CampaignState, StepState
from cm_dagster.policy.states import HUMAN, OVERRULED, SHOWN_AS, TRANSITIONS, GroupState, State

TOP = Path(__file__).parents[2]
PILOT = (TOP / "docs/pilot-guide.md").read_text()


def said_of_states() -> dict[str, str]:
    """What the code says of each state, below its name."""
    (table,) = ast.parse(inspect.getsource(State)).body
    assert isinstance(table, ast.ClassDef)
    rows = [(ast.unparse(one), ast.unparse(two)) for one, two in itertools.pairwise(table.body)]
    pairs = [(one.partition(" = ")[2], two) for one, two in rows if " = " in one]
    return {ast.literal_eval(name): ast.literal_eval(text) for name, text in pairs}


def test_each_state_of_an_attempt_stands_with_its_status_its_meaning_and_what_may_follow() -> None:
    head = "| State | Shown by Dagster as | What it means | What may follow |\n|---|---|---|---|\n"
    table = PILOT.partition(head)[2].partition("\n\n")[0]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines()]
    meaning = said_of_states()

    human = HUMAN | OVERRULED

    def after(state: State) -> str:
        following = [other for other in State if other in TRANSITIONS[state] or (state, other) in OVERRULED]
        return ", ".join(f"*{other}*" if (state, other) in human else other for other in following)

    assert rows == [(f"`{state}`", SHOWN_AS[state], meaning[state], after(state)) for state in State]


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
