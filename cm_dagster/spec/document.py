"""Read a YAML file into plain data with the line of every value, and refuse what YAML would quietly turn around."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from pathlib import Path as FilePath

import yaml

from cm_dagster.errors import Fault, SpecError
from cm_dagster.spec.problems import Path, Problem, dotted

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_VALUES", "Document", "read_document"]

MAX_BYTES = 1024 * 1024
"""Size from which on a file is refused, in bytes; it is never read further than that."""

MAX_VALUES = 50_000
"""Number of values from which on a file is refused, aliases counted as often as they are used."""

MAX_DEPTH = 50
"""Number of levels from which on a file is refused."""

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))


@dataclass
class Document:
    """The content of a file, and where everything stands in it."""

    file: str
    """The file as the user named it."""
    data: object = None
    """Mappings, lists, text, numbers, booleans and None only."""
    lines: dict[Path, int] = field(default_factory=dict)
    """Line of each value, from 1: that of its key, where it has one."""
    written: dict[Path, str] = field(default_factory=dict)
    """Unquoted scalars as they are written, e.g. ``1.10`` for the number 1.1."""
    comments: set[Path] = field(default_factory=set)
    """Empty values whose line ends in a comment: most likely a value that begins with #."""
    faults: list[Fault] = field(default_factory=list)
    """What is wrong with the YAML itself."""

    def line(self, path: Path) -> int:
        """Find the line of a value, or that of the nearest mapping around it which is there."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def fault(self, problem: Problem) -> Fault:
        """Give a problem its file and line."""
        place = self.line(problem.path)
        return Fault(self.file, place, dotted(problem.path), problem.message, problem.expected, problem.nearest)

    def add(self, path: Path, message: str, expected: str = "") -> None:
        """Record what is wrong with the YAML at a path."""
        self.faults.append(self.fault(Problem(path, message, expected)))


def read_document(file: FilePath | str) -> Document:
    """Read a file.

    Raises
    ------
    SpecError
        If there is no such file, if it is too large, not text or not YAML.
    """
    name = str(file)
    text = _read_text(name)
    try:
        node = _Composer(text).get_single_node()
    except _TooMuchError as error:
        raise _refusal(name, error.line, str(error)) from None
    except yaml.YAMLError as error:
        raise SpecError([_syntax_fault(name, text, error)]) from None
    document = Document(name)
    if node is not None:
        _check_size(name, node)
        _Converter(document, text).run(node)
    return document


def _refusal(name: str, line: int | None, message: str, expected: str = "", near: str = "") -> SpecError:
    return SpecError([Fault(name, line, "", message, expected, near)])


def _read_text(name: str) -> str:
    try:
        with open(name, "rb") as stream:  # noqa: PTH123  a Path would change how the user wrote the name
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refusal(name, None, "there is no such file", "a YAML file", _sibling(name)) from None
    except IsADirectoryError:
        raise _refusal(name, None, "is a directory", "a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(name, None, f"cannot be read: {reason}", "a YAML file") from None
    if len(content) > MAX_BYTES:
        raise _refusal(name, None, "is too large to be a campaign or site file", f"at most {MAX_BYTES // 1024} KiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refusal(name, line, f"byte 0x{content[error.start]:02x} is not UTF-8 text", "UTF-8") from None


def _sibling(name: str) -> str:
    """Find the file beside an absent one that is named most like it."""
    path = FilePath(name)
    try:
        names = [other.name for other in path.parent.iterdir() if other.is_file()]
    except (OSError, ValueError):
        return ""
    found = get_close_matches(path.name, names, n=1)
    return str(path.parent / found[0]) if found else ""


class _TooMuchError(Exception):
    """The file holds more values, or more of them inside of each other, than any real one."""

    def __init__(self, node: yaml.Node | None, count: int, depth: int) -> None:
        self.line = node.start_mark.line + 1 if node else None
        deep = f"is nested too deeply (more than {MAX_DEPTH} levels)"
        super().__init__(deep if depth > MAX_DEPTH else f"holds too many values (more than {MAX_VALUES})")


class _Composer(yaml.SafeLoader):
    """PyYAML's own, which gives up at a number of values instead of reading on for minutes."""

    count = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.count += 1
        self.depth += 1
        if self.count > MAX_VALUES or self.depth > MAX_DEPTH:
            raise _TooMuchError(parent, self.count, self.depth)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _syntax_fault(name: str, text: str, error: yaml.YAMLError) -> Fault:
    """Say what a YAML error means, with the cause that is most likely in our files."""
    if not isinstance(error, yaml.MarkedYAMLError):  # a character that YAML does not take
        position = getattr(error, "position", 0)
        shown = f"U+{getattr(error, 'character', 0):04X}"
        return Fault(name, text.count("\n", 0, position) + 1, "", f"character {shown} is not allowed in YAML")
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    problem = error.problem or "cannot be read"
    # A statement that is never closed is noticed at the end of the file: where it begins says more.
    begun = error.context_mark.line + 1 if error.context_mark else line
    since = f" ({error.context}, begun in line {begun})" if error.context and begun != line else ""
    return Fault(name, line, "", f"not YAML: {problem}{since}", _hint(problem, _lines_of(text, begun, line)))


def _lines_of(text: str, *numbers: int) -> list[str]:
    lines = text.splitlines()
    return [lines[number - 1] for number in numbers if 0 < number <= len(lines)]


def _hint(problem: str, lines: list[str]) -> str:
    """Guess what would be right, from YAML's complaint and the lines that it is about."""
    if "\\t" in problem or any(line.lstrip(" ").startswith("\t") for line in lines):
        return "spaces, not tabs, before a key"
    if any(re.search(r":\s+#", line) for line in lines):
        return 'quotes around a value that begins with #, e.g. pipeline: "#step1"'
    if "mapping values are not allowed" in problem:
        return "one `key: value` a line, keys of a mapping under each other, and quotes around a value with ': ' in it"
    if "cannot start any token" in problem or "undefined alias" in problem:
        return "quotes around the value"
    if "could not find expected ':'" in problem:
        return "`key: value`"
    if "expected a single document" in " ".join(problem.split()) or "but found another document" in problem:
        return "one document in a file (a single `---`)"
    if "<block end>" in problem:
        return "keys of one mapping to begin in the same column"
    if "expected ',' or" in problem:
        return "a comma between values and a closing bracket"
    return ""


def _check_size(name: str, node: yaml.Node) -> None:
    """Refuse aliases that contain themselves or that blow a small file up."""
    sizes: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> tuple[int, int]:
        """Count the values in a node, and the levels."""
        if id(node) in open_nodes:
            raise _refusal(name, node.start_mark.line + 1, "an alias stands inside of what it refers to")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            inner = [size(child) for child in _children(node)]
            open_nodes.discard(id(node))
            count, depth = 1 + sum(one[0] for one in inner), 1 + max((one[1] for one in inner), default=0)
            if count > MAX_VALUES or depth > MAX_DEPTH:
                error = _TooMuchError(node, count, depth)
                raise _refusal(name, error.line, f"{error}, its aliases written out")
            sizes[id(node)] = count, depth
        return sizes[id(node)]

    size(node)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


class _Converter:
    """Turns YAML's nodes into data, and writes down lines, duplicates and traps on the way."""

    def __init__(self, document: Document, text: str) -> None:
        self.document = document
        self.text = text
        self.constructor = yaml.constructor.SafeConstructor()

    def run(self, node: yaml.Node) -> None:
        self.document.lines[()] = node.start_mark.line + 1
        self.document.data = self.value((), node)

    def value(self, path: Path, node: yaml.Node) -> object:
        if node.tag not in _PLAIN_TAGS and node.tag != _TAG + "timestamp":
            self.document.add(path, f"the YAML tag {node.tag.replace(_TAG, '!!')} is not allowed", "plain YAML")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(path, node)
        if isinstance(node, yaml.SequenceNode):
            return [self.item((*path, place), child) for place, child in enumerate(node.value)]
        return self.scalar(path, node)

    def item(self, path: Path, node: yaml.Node) -> object:
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        return self.value(path, node)

    def mapping(self, path: Path, node: yaml.MappingNode) -> dict[str, object]:
        content: dict[str, object] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                continue
            line = key_node.start_mark.line + 1
            key = self.key(path, key_node)
            here = (*path, key)
            if key in first:
                where = "in the same line" if first[key] == line else f"in line {first[key]}"
                fault = Fault(self.document.file, line, dotted(here), f"is there twice: already {where}")
                self.document.faults.append(fault)
                continue
            first[key] = line
            self.document.lines.setdefault(here, line)  # what a merge brings gives way
            content[key] = self.value(here, value_node)
        return self.merged(path, node, content)

    def merged(self, path: Path, node: yaml.MappingNode, content: dict[str, object]) -> dict[str, object]:
        """Add what merge keys (``<<: *anchor``) bring and the mapping does not say itself."""
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    if not isinstance(source, yaml.MappingNode):
                        self.document.add((*path, "<<"), "does not merge a mapping", "an alias of a mapping")
                        continue
                    for key, value in self.mapping(path, source).items():
                        content.setdefault(key, value)
        return content

    def key(self, path: Path, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode) and node.tag in (_TAG + "str", _TAG + "value"):
            return str(node.value)
        shown = str(node.value) if isinstance(node, yaml.ScalarNode) else "?"
        self.document.lines.setdefault((*path, shown), node.start_mark.line + 1)
        self.document.add((*path, shown), "this key is not text", f'a name; in quotes if it is meant so: "{shown}"')
        return shown

    def scalar(self, path: Path, node: yaml.Node) -> object:
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            self.document.written.setdefault(path, node.value)
        try:
            value: object = self.constructor.construct_object(node)
        except (ValueError, OverflowError, yaml.YAMLError):
            self.document.add(path, f"{_short(node.value)} cannot be read as a value", "quotes around it if it is text")
            return None
        if value is None and re.match(r"[^\n]*\s#", self.text[node.end_mark.index :]):
            self.document.comments.add(path)
        return self.untrapped(path, node, value)

    def untrapped(self, path: Path, node: yaml.Node, value: object) -> object:
        """Report text that YAML 1.1 takes for something else than it looks like."""
        meant = f'quotes around it: "{_short(node.value)}"'
        if isinstance(value, date):
            self.document.add(path, f"YAML reads {node.value} as a date", meant)
            return node.value
        if isinstance(value, float) and not math.isfinite(value):
            self.document.add(path, f"{node.value} is not a finite number", "a number")
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            if ":" in node.value:
                self.document.add(path, f"YAML reads {node.value} as the number {value} (base 60)", meant)
            elif isinstance(value, int) and re.fullmatch(r"[-+]?0[0-7_]+", node.value):
                plain = node.value.replace("_", "").lstrip("+-0") or "0"
                expected = f"{plain}, or {meant}"
                self.document.add(path, f"YAML reads {node.value} as the octal number {value}", expected)
        return value


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
