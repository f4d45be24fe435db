"""The rules of CONTRIBUTING.md that a machine can check, beside the import contracts in pyproject.toml."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture import rules

SOURCE = Path(__file__).resolve().parents[2] / "src" / "theta_daemon"
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def test_there_is_something_to_check() -> None:
    assert "errors.py" in MODULES


@pytest.mark.parametrize("rule", rules.TREE_RULES)
def test_only_the_named_modules_may(rule: str) -> None:
    find, allowed = rules.TREE_RULES[rule]
    findings = [
        f"{module}: {finding}"
        for module in MODULES
        if not rules.allows(allowed, module)
        for finding in find(ast.parse((SOURCE / module).read_text("utf-8")))
    ]
    assert findings == []


def test_no_module_is_too_long() -> None:
    findings = [
        f"{module}: {finding}"
        for module in MODULES
        if not rules.allows(rules.LONG, module)
        for finding in rules.size((SOURCE / module).read_text("utf-8"))
    ]
    assert findings == []


@pytest.mark.parametrize("rule", rules.TREE_RULES)
def test_no_permission_outlives_its_use(rule: str) -> None:
    find, allowed = rules.TREE_RULES[rule]
    users = [module for module in MODULES if list(find(ast.parse((SOURCE / module).read_text("utf-8"))))]
    unused = [name for name in allowed if not any(rules.allows({name: ""}, module) for module in users)]
    assert unused == []


def test_no_module_is_named_after_nothing() -> None:
    assert [f"{module}: {finding}" for module in MODULES for finding in rules.name(module)] == []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("environment", "import os\nos.environ['A']"),
        ("environment", "from os import getenv"),
        ("working directory", "import os\nos.getcwd()"),
        ("working directory", "from pathlib import Path\nPath.cwd()"),
        ("standard streams", "print('x')"),
        ("standard streams", "import sys\nsys.stdout.write('x')"),
        ("other programs", "def f():\n    import subprocess"),
        ("other programs", "from multiprocessing.pool import Pool"),
        ("other programs", "import os\nos.execvp('a', [])"),
        ("code from data", "eval('1')"),
    ],
)
def test_each_rule_finds_what_breaks_it(rule: str, source: str) -> None:
    find, _ = rules.TREE_RULES[rule]
    assert list(find(ast.parse(source))) != []


@pytest.mark.parametrize("rule", rules.TREE_RULES)
def test_no_rule_finds_fault_with_plain_code(rule: str) -> None:
    find, _ = rules.TREE_RULES[rule]
    assert list(find(ast.parse("import os\nimport sys\nos.path.join('a')\nsys.exit(0)\nenviron = {}"))) == []


def test_the_other_two_rules_find_what_breaks_them() -> None:
    assert list(rules.size("\n" * (rules.LIMIT + 1))) != []
    assert list(rules.name("store/utils.py")) != []
    assert list(rules.name("helpers/objects.py")) != []
