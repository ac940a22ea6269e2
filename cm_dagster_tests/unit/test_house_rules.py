"""The house rules that `make check` enforces itself (`tools/house_rules.py`)."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import cm_dagster

TOOL = Path(cm_dagster.__file__).parents[1] / "tools/house_rules.py"


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house_rules", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(rules: ModuleType, name: str, text: str) -> list[str]:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return list(rules.faults(path))


@pytest.mark.parametrize(
    "line", ["import dagster._core.storage", "from dagster._serdes import x", "from dagster import _core"]
)
def test_private_dagster_only_in_the_ledger(rules: ModuleType, tree: Path, line: str) -> None:
    assert len(faults(rules, "cm_dagster/assets/a.py", line)) == 1
    assert faults(rules, "cm_dagster/ledger/a.py", line) == []


def test_public_dagster_is_free(rules: ModuleType, tree: Path) -> None:
    assert (
        faults(rules, "cm_dagster/assets/a.py", "import dagster as dg\nfrom dagster import asset\nfrom . import _own")
        == []
    )


def test_long_module(rules: ModuleType, tree: Path) -> None:
    assert faults(rules, "a.py", "x = 1\n" * 500) == []
    assert faults(rules, "a.py", "x = 1\n" * 501) == ["a.py:1: 501 lines, more than 500"]


def test_long_function_is_measured_without_its_docstring(rules: ModuleType, tree: Path) -> None:
    docstring = '    """One.\n' + "    line\n" * 50 + '    """\n'
    assert faults(rules, "a.py", f"def f():\n{docstring}" + "    x = 1\n" * 59) == []
    assert len(faults(rules, "a.py", f"def f():\n{docstring}" + "    x = 1\n" * 60)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "see https://pyp" + "i.org/simple",
        "pip install --index" + "-url X",
        "cd '/ro" + "ot/x'",
        "path: /ho" + "me/me/x",
    ],
)
def test_addresses_and_machine_paths(rules: ModuleType, tree: Path, line: str) -> None:
    assert len(faults(rules, "a.md", line)) == 1


@pytest.mark.parametrize(
    "line", ["$ROOT/work/x", "https://example.org/home/x", "/sdf/home/x", "/repo/main", "~/work/x"]
)
def test_other_paths_are_free(rules: ModuleType, tree: Path, line: str) -> None:
    assert faults(rules, "a.md", line) == []


def test_pictures_are_passed_over(rules: ModuleType, tree: Path) -> None:
    (tree / "a.png").write_bytes(b"\x89PNG\xff")
    assert list(rules.faults(Path("a.png"))) == []


def test_tree_of_this_project_is_clean_by_its_own_measure(rules: ModuleType) -> None:
    assert list(rules.faults(TOOL)) == []
    assert "house_rules" not in sys.modules
