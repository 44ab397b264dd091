"""What the tree promises to a newcomer: a name says which room, and no constructor takes too many parts."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("consumer", "schemas", "training", "virnucpro_client", "virnucpro_core")
MOST_PARTS = 7


def modules(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_of_a_package_share_a_name(package):
    names = Counter(path.stem for path in modules(package))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_constructor_takes_more_than_seven_parts(package):
    found = [
        f"{path.relative_to(ROOT)}: {node.name} takes {len(arguments) - 1}"
        for path in modules(package)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        for arguments in [[*method.args.args, *method.args.kwonlyargs]]
        if len(arguments) - 1 > MOST_PARTS
    ]
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_and_module_says_what_it_is_for(package):
    paths = [path for path in (ROOT / package).rglob("*.py") if path.read_text(encoding="utf-8").strip()]
    silent = [
        path for path in paths if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert [str(path.relative_to(ROOT)) for path in silent] == []
