"""What the import contracts in pyproject.toml cannot say, as functions from a module's source to findings.

Each rule names the modules that may break it and why; adding a name here is a decision, not a formality.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

# Module (path below src/theta_daemon) -> why. A path that ends in "/" stands for the folder.
Allowed = dict[str, str]

ENVIRONMENT: Allowed = {
    "daemon/handlers.py": "hands the environment to settings",
    "daemon/entry.py": "THETA_TRACE, for errors that come before the settings",
    "cli/main.py": "hands the environment to the verbs",
    "progress.py": "TERM: whether a terminal can write a line anew",
}
WORKING_DIRECTORY: Allowed = {
    "daemon/handlers.py": "hands the directory to settings",
    "cli/main.py": "hands the directory to the verbs",
}
STANDARD_STREAMS: Allowed = {
    "cli/": "talks to the user",
    "daemon/": "talks to git",
}
OTHER_PROGRAMS: Allowed = {
    "gitcmd.py": "git, for settings, history and the verbs",
    "cli/lfs.py": "git-lfs, which sends objects",
}
CODE_FROM_DATA: Allowed = {
    "frozen.py": "constructors, of the annotations in our own source, as dataclasses and namedtuple make theirs",
}
LONG: Allowed = {
    "formats/pickle_opcodes.py": "a flat list: one short handler for each of pickle's opcodes",
}

LIMIT = 400
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "core", "shared", "tools"}


def allows(allowed: Allowed, module: str) -> bool:
    """Tell whether `module` is named in `allowed`, itself or by its folder."""
    return any(module == name or (name.endswith("/") and module.startswith(name)) for name in allowed)


def environment(tree: ast.AST) -> Iterator[str]:
    """Find readers of the process's environment."""
    yield from _attributes(tree, "os", {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"})


def working_directory(tree: ast.AST) -> Iterator[str]:
    """Find readers and changers of the process's working directory."""
    yield from _attributes(tree, "os", {"getcwd", "getcwdb", "chdir", "fchdir"})
    yield from _attributes(tree, "Path", {"cwd"})


def standard_streams(tree: ast.AST) -> Iterator[str]:
    """Find users of stdin, stdout and stderr."""
    yield from _attributes(tree, "sys", {"stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"})
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=("print" | "input") as function)):
                yield f"line {node.lineno}: {function}()"


def other_programs(tree: ast.AST) -> Iterator[str]:
    """Find starters of other programs."""
    for node in ast.walk(tree):
        imported: list[str] = []
        line = 0
        match node:
            case ast.Import(names=names, lineno=line):
                imported = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), lineno=line):
                imported = [module]
        for module in imported:
            if module.split(".")[0] in {"subprocess", "multiprocessing", "pty"}:
                yield f"line {line}: import {module}"
    yield from _attributes(tree, "os", {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp"})
    yield from _attributes(tree, "os", {f"exec{kind}" for kind in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")})


def code_from_data(tree: ast.AST) -> Iterator[str]:
    """Find what would run code that a file, an object or an attribute names."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=("eval" | "exec" | "compile" | "__import__") as function)):
                yield f"line {node.lineno}: {function}()"


def size(source: str) -> Iterator[str]:
    """Find modules that hold more than one idea."""
    lines = source.count("\n")
    if lines > LIMIT:
        yield f"{lines} lines; over {LIMIT} a module holds more than one idea"


def name(module: str) -> Iterator[str]:
    """Find modules that are named after nothing."""
    for part in PurePosixPath(module).with_suffix("").parts:
        if part.strip("_") in VAGUE:
            yield f"{part!r} says nothing about what it holds"


TREE_RULES: dict[str, tuple[Callable[[ast.AST], Iterator[str]], Allowed]] = {
    "environment": (environment, ENVIRONMENT),
    "working directory": (working_directory, WORKING_DIRECTORY),
    "standard streams": (standard_streams, STANDARD_STREAMS),
    "other programs": (other_programs, OTHER_PROGRAMS),
    "code from data": (code_from_data, CODE_FROM_DATA),
}


def _attributes(tree: ast.AST, owner: str, names: set[str]) -> Iterator[str]:
    """Find `owner.name` and `from owner import name`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=found), attr=attribute) if found == owner and attribute in names:
                yield f"line {node.lineno}: {owner}.{attribute}"
            case ast.ImportFrom(module=found, names=aliases) if found == owner:
                for alias in aliases:
                    if alias.name in names:
                        yield f"line {node.lineno}: from {owner} import {alias.name}"
