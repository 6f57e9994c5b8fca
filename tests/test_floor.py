"""The paper's floor stands alone: it imports nothing but itself, the array module and errors."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wtref

FLOOR = ("rules", "relatives", "synapses", "layers", "activations", "losses", "optim", "angles", "noise", "models", "training")
ALLOWED = {f"wtref.{name}" for name in (*FLOOR, "errors", "geometry", "text", "randomness", "device")}
HOUSE = Path(wtref.__file__).parent


@pytest.mark.parametrize("name", (*FLOOR, "errors", "geometry", "randomness", "device"))
def test_imports_stay_on_the_floor(name):
    found = set()
    for node in ast.walk(ast.parse((HOUSE / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            found |= {node.module} if node.module != "wtref" else {f"wtref.{alias.name}" for alias in node.names}
    foreign = {module for module in found if module.split(".")[0] not in sys.stdlib_module_names | {"numpy", "cupy"}}
    assert foreign <= ALLOWED
    assert "cupy" not in found or name == "device"


def test_importing_the_rules_loads_neither_kernels_nor_processes():
    script = "import sys, wtref.relatives, wtref.training, wtref.models; print(*(m for m in sys.modules if m.startswith('wtref')))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=HOUSE.parent)
    assert set(loaded.stdout.split()) <= ALLOWED | {"wtref"}


def test_no_module_of_the_package_imports_itself_by_way_of_others():
    imports = _imports()
    clear = set()

    def circle(name, above):
        """A circle of imports that begins above this module or at it, or None."""
        if name in above:
            return (*above[above.index(name) :], name)
        found = (circle(inner, (*above, name)) for inner in sorted(imports[name] - clear))
        return next(filter(None, found), None)

    for name in sorted(imports):
        assert circle(name, ()) is None
        clear.add(name)


def _imports():
    """{module: the package's modules that it imports at its top}; what runs later is no part of a circle."""
    paths = {".".join(path.relative_to(HOUSE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in HOUSE.rglob("*.py")}
    imports = {}
    for name, path in paths.items():
        found = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                modules = {f"{node.module}.{alias.name}" for alias in node.names} & paths.keys()
                found |= modules if len(modules) == len(node.names) else modules | {node.module}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        imports[name] = found & paths.keys()
    return imports


SOURCES = [path for path in sorted(HOUSE.rglob("*")) if path.suffix in {".py", ".c", ".cu"}]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_no_file_has_more_than_300_lines_and_no_function_more_than_50(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    if path.suffix == ".py":
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        assert {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno - node.lineno >= 50} == {}
