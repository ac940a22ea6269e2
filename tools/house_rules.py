"""House rules that no linter has: lengths, Dagster's private modules, addresses and machine paths.

Looks at every file that git tracks or would track, prints one line per fault and exits with 1 if there is any.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES = 500
FUNCTION_LINES = 60

PRIVATE_USERS = ("cm_dagster/ledger/", "cm_dagster_tests/")
"""Folders that may import Dagster's private modules: the ledger only, and the tests of it."""

# Written so that the patterns do not match themselves.
FORBIDDEN = {
    "address of a package index": re.compile(
        r"\bpypi[.]org|pythonhosted[.]org|registry[.]npmjs|[-][-](?:extra-)?index-url|[-][-]find-links", re.IGNORECASE
    ),
    "path of one machine": re.compile(r"(?<![\w.~$}/-])/(?:work|root|home|Users)/[\w.]"),
}


def lengths(path: Path, tree: ast.Module, text: str) -> Iterator[str]:
    """Find modules and functions that are too long.

    Parameters
    ----------
    path
        File, for the message.
    tree
        Its syntax tree.
    text
        Its content.

    Yields
    ------
    str
        One line per fault.
    """
    if (lines := len(text.splitlines())) > MODULE_LINES:
        yield f"{path}:1: {lines} lines, more than {MODULE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
            if lines > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name}: {lines} lines beside docstring, more than {FUNCTION_LINES}"


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's docstring.

    Parameters
    ----------
    node
        Function.

    Returns
    -------
    int
        Number of lines; 0 without a docstring.
    """
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def private_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """Find imports of Dagster's private modules outside the ledger.

    Parameters
    ----------
    path
        File; those in `PRIVATE_USERS` may do so.
    tree
        Its syntax tree.

    Yields
    ------
    str
        One line per fault.
    """
    if path.as_posix().startswith(PRIVATE_USERS):
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module), level=0):
                names = [f"{module}.{alias.name}" for alias in node.names]
            case _:
                continue
        for name in names:
            package, *rest = name.split(".")
            if package.startswith("dagster") and any(part.startswith("_") for part in rest):
                yield f"{path}:{node.lineno}: {name} is private to Dagster: only cm_dagster/ledger may import it"


def forbidden_text(path: Path, text: str) -> Iterator[str]:
    """Find index addresses and paths that exist on one machine only.

    Parameters
    ----------
    path
        File, for the message.
    text
        Its content.

    Yields
    ------
    str
        One line per fault.
    """
    for number, line in enumerate(text.splitlines(), 1):
        for what, pattern in FORBIDDEN.items():
            if found := pattern.search(line):
                yield f"{path}:{number}: {what}: {found.group()}"


def faults(path: Path) -> Iterator[str]:
    """Find all faults of one file.

    Parameters
    ----------
    path
        File, relative to the top level.

    Yields
    ------
    str
        One line per fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return  # a picture
    yield from forbidden_text(path, text)
    if path.suffix == ".py":
        tree = ast.parse(text, str(path))
        yield from lengths(path, tree, text)
        yield from private_imports(path, tree)


def main() -> int:
    """Check all files of the working tree.

    Returns
    -------
    int
        Exit code.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    paths = sorted({Path(name) for name in names if name and Path(name).is_file()})
    found = [fault for path in paths for fault in faults(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
