"""The house of CONTRIBUTING.md: who may import whom, how long things may be, where the rooms are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FACE = ROOT / "src" / "gemvane"
ROOMS = ("hw_configs", "workloads", "sim", "validate")

# From the ground up: a module may import what stands on its own floor or below. A name stands for all that it contains,
# but the names of the rooms sim and workloads stand for their __init__ alone: a new module there is given a floor here.
FLOORS = (
    ("gemvane.hw_configs",),
    ("gemvane.workloads.kinds",),
    ("gemvane.workloads.ops",),
    ("gemvane.workloads.trace", "gemvane.workloads.requests", "gemvane.workloads.lengths", "gemvane.workloads.arrivals",
     "gemvane.workloads.chakra"),
    ("gemvane.workloads.parts", "gemvane.workloads.spec", "gemvane.workloads.families", "gemvane.workloads.scenario"),
    ("gemvane.workloads.catalog", "gemvane.workloads.specfile"),
    ("gemvane.workloads.emit", "gemvane.workloads.spread", "gemvane.workloads.mixers",
     "gemvane.workloads.layers", "gemvane.workloads.sparsity",
     "gemvane.workloads.partition"),
    ("gemvane.workloads.lower",),
    ("gemvane.workloads.record", "gemvane.workloads.transforms", "gemvane.workloads.kernels"),
    ("gemvane.workloads",),
    ("gemvane.sim.units", "gemvane.sim.quantity", "gemvane.sim.pimschema", "gemvane.sim.schema", "gemvane.sim.yamltree",
     "gemvane.sim.yamlcheck", "gemvane.sim.kernels"),
    ("gemvane.sim.nodes", "gemvane.sim.formula"),
    ("gemvane.sim.calibration",),
    ("gemvane.sim.hardware", "gemvane.sim.costs", "gemvane.sim.confidence", "gemvane.sim.perfetto"),
    ("gemvane.sim.dram", "gemvane.sim.redesign"),
    ("gemvane.sim.devices",),
    ("gemvane.sim.mapping", "gemvane.sim.schedule", "gemvane.sim.energy", "gemvane.sim.memory", "gemvane.sim.area",
     "gemvane.sim.stages"),
    ("gemvane.sim.contention", "gemvane.sim.policies"),
    ("gemvane.sim.simulate", "gemvane.sim.estimate"),
    ("gemvane.sim.overlap",),
    ("gemvane.sim.breakdown", "gemvane.sim.interop"),
    ("gemvane.sim.result",),
    ("gemvane.sim.axes", "gemvane.sim.rerun"),
    ("gemvane.sim.space",),
    ("gemvane.sim.sweep", "gemvane.sim.serving", "gemvane.sim.sensitivity"),
    ("gemvane.sim.explain",),
    ("gemvane.sim",),
    ("gemvane.validate",),
    ("gemvane",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
DIVIDED = ("gemvane.sim", "gemvane.workloads")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_KERNEL_LINES = 80
# numba does not see a change in a file that a cached kernel imports, so a kernel and its helpers share one file.
MAX_KERNEL_FILE_LINES = 550


def modules() -> dict[str, Path]:
    """Every module of ours by its name, read through the links (or from the real folders of an sdist)."""
    found = {}
    for path in sorted((*FACE.glob("**/*.py"), *(path for room in ROOMS for path in (FACE / room).glob("**/*.py")))):
        parts = path.relative_to(FACE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def home(module: str) -> str | None:
    """The name in FLOORS that a module belongs to."""
    name = module
    while name not in FLOOR:
        name = name.rpartition(".")[0]
    return None if name in DIVIDED and name != module else name


def imports(module: str, text: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, anywhere in its text."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield node.lineno, name if name in MODULES else base


def faults(module: str, text: str, *, is_package: bool = False) -> Iterator[str]:
    """What a module imports and may not, each as file, floor and import."""
    here = home(module)
    if here is None:
        yield f"{module} stands on no floor: add it to FLOORS in tests/test_house.py"
        return
    for line, name in imports(module, text, is_package=is_package):
        where = f"{module.replace('.', '/')}:{line} (floor {FLOOR[here]}, {here}) imports {name}"
        root = name.split(".")[0]
        if root in ROOMS:
            yield f"{where}: the room's name is gemvane.{root}"
        elif root == "torch" and here.startswith("gemvane.sim"):
            yield f"{where}: sim never needs torch"
        elif root != "gemvane":
            continue
        elif here == "gemvane.sim.kernels" and not is_package:
            yield f"{where}: a kernel imports nothing of ours"
        elif (there := home(name)) is not None and FLOOR[there] > FLOOR[here]:
            yield f"{where}, which stands above it (floor {FLOOR[there]}, {there})"


def test_every_import_leads_down() -> None:
    wrong = [
        fault
        for module, path in MODULES.items()
        for fault in faults(module, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py")
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        ("gemvane.sim.devices.x", "from ...validate import compare", "imports gemvane.validate.compare, which stands above it"),
        ("gemvane.sim.devices.x", "def f():\n    from .. import schedule", "imports gemvane.sim.schedule, which stands above it"),
        ("gemvane.sim.schedule", "def f():\n    import torch.nn", "sim never needs torch"),
        ("gemvane.sim.hardware", "import gemvane", "which stands above it"),
        ("gemvane.workloads.ops", "from gemvane.sim.units import parse", "which stands above it"),
        ("gemvane.workloads.ops", "from . import trace", "imports gemvane.workloads.trace, which stands above it"),
        ("gemvane.sim.kernels.x", "from .timeline import schedule_kernel", "a kernel imports nothing of ours"),
        ("gemvane.validate.x", "from sim import units", "the room's name is gemvane.sim"),
        ("gemvane.validate.x", "from gemvane.cli import main", "which stands above it"),
        ("gemvane.sim.nowhere", "", "gemvane.sim.nowhere stands on no floor"),
    ],
)
def test_an_import_that_leads_up_is_named(module: str, text: str, complaint: str) -> None:
    assert [complaint in fault for fault in faults(module, text)] == [True]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("gemvane.sim.devices.x", "from ..units import parse\nfrom gemvane.workloads.trace import Trace\nfrom .y import z"),
        ("gemvane.sim.kernels.x", "import numpy as np\nfrom numba import njit"),
        ("gemvane.validate.x", "import torch\nfrom gemvane.sim.schedule import schedule"),
        ("gemvane.cli", "from gemvane.validate import compare\nimport gemvane"),
    ],
)
def test_an_import_that_leads_down_is_welcome(module: str, text: str) -> None:
    assert list(faults(module, text)) == []


def sources() -> list[Path]:
    """Every Python file of the repository, once."""
    return [*MODULES.values(), *(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).glob("**/*.py"))]


def is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("jit" in ast.unparse(decorator) for decorator in node.decorator_list)


def test_files_and_functions_are_short() -> None:
    long = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        room = MAX_KERNEL_FILE_LINES if path.parent.name == "kernels" else MAX_FILE_LINES
        if (lines := len(text.splitlines())) > room:
            long.append(f"{where} has {lines} lines, want at most {room}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                most = MAX_KERNEL_LINES if is_kernel(node) else MAX_FUNCTION_LINES
                if lines > most:
                    long.append(f"{where}:{node.lineno} {node.name} has {lines} lines, want at most {most}")
    assert not long, "\n" + "\n".join(long)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_a_folder_with_a_link_to_it(room: str) -> None:
    if not (ROOT / room).is_dir() and not (FACE / room).is_symlink():
        pytest.skip("an sdist has the rooms inside src/gemvane")
    assert (FACE / room).is_symlink(), f"src/gemvane/{room}: want a link (on Windows, git needs core.symlinks=true)"
    assert (FACE / room).readlink() == Path("..", "..", room)
    assert (FACE / room).resolve() == ROOT / room
    assert (ROOT / room / "__init__.py").is_file()


def test_the_package_says_that_it_is_typed() -> None:
    assert (FACE / "py.typed").is_file()
