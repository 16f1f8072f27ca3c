"""The rooms of the program: what may import what, read from the source.

What can be wrong about time or order is a pure function of its arguments, so the pure
rooms must not be able to ask a clock, a socket or chance. Imports point one way:
cli -> supervisor's side -> worker, monitor -> edges -> pure.
"""

from __future__ import annotations

import ast
import unicodedata
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from helpers import REPOSITORY

PACKAGE = REPOSITORY / "pipeline"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

PURE = (
    "config", "schema", "addresses", "layout", "records", "stream", "stream.*", "packet_filter", "inspection",
    "audit", "audit.*",
    "supervision.restarts",
    "supervision.causes", "supervision.troubles", "supervision.lastminute", "supervision.story",
    "supervision.report", "supervision.report_json", "supervision.changes",
    "alerts.conditions", "alerts.incidents", "alerts.message", "capacity", "configedit", "configrules",
    "ntp.wire", "ntp.reading", "ntp.frequency", "ntp.peer", "ntp.plan", "ntp.select", "ntp.rows",
    "ntp.verdict", "ntp.words", "ntp.pool", "ntp.evaluation", "ntp.report", "ntp.engine", "simulator.spec",
    "simulator.signal", "simulator.faults",
)  # fmt: skip
# Top first; what is in no layer is an edge.
LAYERS = (
    ("cli", "cli.*", "__main__"),
    ("demo", "replay"),
    ("supervision.service",),
    ("supervision.supervisor", "supervision.control_api"),
    ("supervision.surroundings",),
    (
        "supervision.crew",
        "supervision.rolling",
        "supervision.seats",
        "supervision.publication",
        "supervision.radiod_guard",
        "supervision.alerts_guard",
    ),
    ("supervision.fdstore", "supervision.membership"),
    ("supervision.parts",),
    ("worker", "channelreport", "receiver", "writer", "ntp.monitor"),
)
# What makes streams up, and what only runs on made-up streams.
SIMULATION = ("simulator", "simulator.*", "replay", "demo")
# No clock, chance, file, socket, thread or process.
IMPURE = {
    "asyncio", "multiprocessing", "mmap", "os", "posix_ipc", "secrets", "select", "selectors", "shutil", "socket",
    "subprocess", "tempfile", "threading", "time", "uuid",
}  # fmt: skip
# `load_config` is the door that every caller knows; the reading behind it is an edge.
EXEMPT = {("config", "configfile")}


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """True when one of the patterns covers the module."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def tree(name: str) -> ast.Module:
    """The module's syntax tree without what only the type checker sees."""
    found = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in ast.walk(found):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    return found


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Absolute names of the imported modules; of `from a import b`, a.b if that is one of ours, else a."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix("pipeline.")
                yield f"pipeline.{inner}" if base.startswith("pipeline") and inner in MODULES else base


def own(name: str, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    """The package's modules that `name` imports, anywhere or among `nodes`."""
    found = imports(nodes or ast.walk(tree(name)))
    return {module.removeprefix("pipeline.") for module in found if module.startswith("pipeline.")} - {name}


def layer(name: str) -> int:
    """0 = top; pure modules are the lowest."""
    if matches(name, PURE):
        return len(LAYERS) + 1
    return next((i for i, patterns in enumerate(LAYERS) if matches(name, patterns)), len(LAYERS))


def test_the_walk_sees_the_package() -> None:
    assert {"config", "records", "shm", "cli"} <= set(MODULES)
    assert "records" in own("shm")


@pytest.mark.parametrize("name", [name for name in MODULES if matches(name, PURE)])
def test_pure_room(name: str) -> None:
    top_level = {module.split(".")[0] for module in imports(ast.walk(tree(name)))}
    assert not top_level & IMPURE
    for node in ast.walk(tree(name)):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert called.split(".")[-1] not in {"now", "utcnow", "today", "open"}, f"line {node.lineno}: {called}"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random":
            assert node.attr == "Random", f"line {node.lineno}: only a generator with a given seed is pure"
        assert called != "random.Random" or node.args, "a generator without a seed"
    assert [m for m in own(name) if not matches(m, PURE) and (name, m) not in EXEMPT] == []


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    upward = [m for m in own(name) if layer(m) < layer(name) and (name, m) not in EXEMPT]
    assert upward == []


@pytest.mark.parametrize("name", [name for name in MODULES if not matches(name, ("cli.*", *SIMULATION))])
def test_the_recorder_does_not_know_the_simulator(name: str) -> None:
    assert [m for m in own(name) if matches(m, SIMULATION)] == []


def test_no_circle_of_imports() -> None:
    waiting = {name: own(name, iter(tree(name).body)) for name in MODULES}
    while free := [name for name, needed in waiting.items() if not needed & set(waiting)]:
        for name in free:
            del waiting[name]
    assert waiting == {}


def is_property(node: ast.stmt) -> bool:
    """True for a property's getter or setter, whose name may say enough."""
    decorators = map(ast.unparse, node.decorator_list) if isinstance(node, ast.FunctionDef) else ()
    return any(name == "property" or name.endswith(".setter") for name in decorators)


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.stat().st_size])
def test_public_names_have_docstrings(name: str) -> None:
    module = tree(name)
    assert ast.get_docstring(module)
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    without = [
        f"{node.name}, line {node.lineno}"
        for body in (module.body, *(c.body for c in classes))
        for node in body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (node.name.startswith("_") or is_property(node))
        and not ast.get_docstring(node)
    ]
    assert without == []


def test_no_shell_no_pickle() -> None:
    for name in MODULES:
        assert "pickle" not in set(imports(ast.walk(tree(name)))), name
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.keyword) and node.arg in {"shell", "allow_pickle"}:
                assert ast.unparse(node.value) == "False", f"{name}, line {node.lineno}"


@pytest.mark.parametrize("path", [*MODULES.values(), *REPOSITORY.glob("etc/*")], ids=lambda p: str(Path(p).name))
def test_no_decoration(path: Path) -> None:
    odd = {
        c for c in path.read_text(encoding="utf-8") if not c.isascii() and unicodedata.category(c) in {"So", "Cn", "Co"}
    }
    assert odd == set()
