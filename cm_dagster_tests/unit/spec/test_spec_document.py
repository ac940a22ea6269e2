"""Files that are not what they should be: absent, huge, hostile, no YAML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cm_dagster.errors import SpecError
from cm_dagster.spec import load_campaign
from cm_dagster.spec.document import MAX_BYTES, read_document

from .conftest import EXAMPLE, Messages


def _message(file: Path | str) -> str:
    with pytest.raises(SpecError) as caught:
        load_campaign(file)
    return str(caught.value)


def test_absent_file_names_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text(EXAMPLE)
    wanted = tmp_path / "campain.yaml"
    near = tmp_path / "campaign.yaml"
    assert _message(wanted) == f"{wanted}: there is no such file; expected a YAML file; did you mean '{near}'?"


def test_directory(tmp_path: Path) -> None:
    assert _message(tmp_path) == f"{tmp_path}: is a directory; expected a YAML file"


def test_name_that_cannot_be_one() -> None:
    assert "cannot be read" in _message("a\0b")


def test_large_file_is_not_read(tmp_path: Path) -> None:
    """A hole of 1 TiB would fill the memory if it were read."""
    file = tmp_path / "large.yaml"
    file.touch()
    os.truncate(file, 2**40)
    assert _message(file) == f"{file}: is too large to be a campaign or site file; expected at most 1024 KiB"
    file.write_bytes(b"#" * MAX_BYTES)
    assert "the file is empty" in _message(file)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"campaign: x\ndescription: \xe9t\xe9\n")
    assert _message(file) == f"{file}:2: byte 0xe9 is not UTF-8 text; expected UTF-8"


def test_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + EXAMPLE.encode())
    assert load_campaign(file).campaign == "hsc_rc2_w43"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yaml:1: the file is empty"),
        ("# only a comment\n", "c.yaml:1: the file is empty"),
        ("- campaign: x\n", "c.yaml:1: the top level is not a mapping"),
        ("just words\n", "c.yaml:1: the top level is not a mapping"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2: not YAML: but found another document"),
        ("a: \x01\n", "c.yaml:1: character U+0001 is not allowed in YAML"),
        (
            "a: 'b\nc: 1\n",
            "c.yaml:3: not YAML: found unexpected end of stream (while scanning a quoted scalar, begun in line 1)",
        ),
        ("a: *b\n", "c.yaml:1: not YAML: found undefined alias 'b'"),
        ("a: &a [*a]\n", "c.yaml:1: an alias stands inside of what it refers to"),
        ("[" * 100_000, "c.yaml:1: is nested too deeply (more than 50 levels)"),
        ("{a: " * 100_000, "c.yaml:1: is nested too deeply (more than 50 levels)"),
        ("a: [" + "1," * 60_000 + "]", "c.yaml:1: holds too many values (more than 50000)"),
    ],
)
def test_text_that_is_no_campaign(text: str, message: str, campaign_messages: Messages) -> None:
    messages = campaign_messages(text)
    assert len(messages) == 1
    assert messages[0].startswith(message)


def test_aliases_that_blow_up(campaign_messages: Messages) -> None:
    lines = ["a0: &a0 [" + ",".join("x" * 9) + "]"]
    lines += [f"a{n}: &a{n} [" + ",".join([f"*a{n - 1}"] * 9) + "]" for n in range(1, 30)]
    assert campaign_messages("\n".join(lines)) == [
        "c.yaml:5: holds too many values (more than 50000), its aliases written out"
    ]


def test_aliases_that_nest(campaign_messages: Messages) -> None:
    lines = ["a0: &a0 [1]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 500))]
    (message,) = campaign_messages("\n".join(lines))
    assert "is nested too deeply (more than 50 levels), its aliases written out" in message


def test_anchors_and_merges_may_be_used(tmp_path: Path) -> None:
    file = tmp_path / "anchors.yaml"
    step2 = '{<<: *s, pipeline: "#step2", needs: [step1]}'
    file.write_text(
        "campaign: x\nbutler: {input: [a], output: b}\npipeline: p.yaml\nsites: local\nsteps:\n"
        f'  step1: &s {{pipeline: "#step1", group_by: {{dimension: visit, size: 5}}, scouts: 2}}\n  step2: {step2}\n'
    )
    steps = load_campaign(file).steps
    assert steps["step2"].group_by == steps["step1"].group_by
    assert (steps["step2"].pipeline, steps["step2"].scouts) == ("#step2", 2)


def test_lines_are_those_of_keys_and_items(tmp_path: Path) -> None:
    file = tmp_path / "lines.yaml"
    file.write_text("a:\n  b: 1\n  c:\n  - x\n  - d: 2\n")
    document = read_document(file)
    assert document.data == {"a": {"b": 1, "c": ["x", {"d": 2}]}}
    places = {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", 0): 4,
        ("a", "c", 1, "d"): 5,
        ("a", "z", "y"): 1,
    }
    assert {path: document.line(path) for path in places} == places
