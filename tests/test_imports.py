"""The import rule of the architecture, read from the files and, for the server, from a running process.

fedclient, fedserver -> keys -> secagg -> numpy, cryptography, nacl, cbor2
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("secagg", "keys", "fedclient", "fedserver")
LEARNING = {"torch", "transformers", "peft"}
SLOW_TO_LOAD = {"asyncio", "fastapi", "flwr", "grpc", "httpx", "numpy", "pydantic", "starlette", "tenseal", "uvicorn"}
PRIVATE_KEY_CODE = ("keys.store", "keys.sharedfile", "keys.sharedkey")
SHARED = tuple(
    f"fedclient.{name}"
    for name in (
        "adapter_folder",
        "audit",
        "bundle",
        "line",
        "packets",
        "settings",
        "timings",
        "transcript",
        "verifying",
    )
)  # fmt: skip
DEMO_NUMBERS = "fedclient.demo"  # constants of the demo, for fedserver/demo.py alone

CORE_STDLIB = {
    "__future__", "collections", "concurrent", "dataclasses", "functools", "hashlib", "hmac", "itertools", "math",
    "re", "typing",
}  # fmt: skip
CORE_THIRD_PARTY = {"numpy", "cryptography", "nacl", "cbor2"}
PROCESSES = {  # what runs TenSEAL apart from everything else, and what it may use for that
    "secagg/ckks_shared/worker.py": {"os", "resource", "signal", "tenseal"},
    "secagg/ckks_shared/workers.py": {"atexit", "os", "subprocess", "sys", "threading"},
}
SCHEMES = {"masked", "ckks", "ckks_shared"}
SCHEMES_MAY_USE = {"masked": set(), "ckks": {"masked"}, "ckks_shared": {"masked"}}
LAYERS = [  # a module of secagg imports only from layers before its own, or from its own folder
    {"errors", "labels"},
    {"cbor", "primitives", "session"},
    {"wire"},
    {"thresholds", "identity", "vector", "lanes", "rotate", "tally"},
    {"quantize", "initial", "projection"},
    {"config"},
    {"chain"},
    {"enrol"},
    SCHEMES,
    {"schemes"},
]
PUBLIC_FLWR = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.simulation")
PRIVATE_FLWR_HOMES = {"fedclient/fleet.py", "fedserver/bell.py", "fedserver/bundles.py", "fedserver/mailbox.py"}


@dataclass(frozen=True)
class Import:
    """One imported module, as the file names it; `names` are what it takes from the module."""

    file: Path
    module: str
    names: tuple[str, ...]
    at_run_time: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}: {self.module}"

    def dotted(self) -> tuple[str, ...]:
        """Everything this import may load: the module, and each name in case it is a module."""
        return (self.module, *(f"{self.module}.{name}" for name in self.names))

    def loads(self, *modules: str) -> bool:
        """Whether it loads one of these modules or something inside one."""
        return any(found == each or found.startswith(each + ".") for found in self.dotted() for each in modules)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_in(file: Path) -> Iterator[Import]:
    """Every import statement, wherever it stands, and every import by name through importlib."""

    def visit(node: ast.AST, at_run_time: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, alias.name, (), at_run_time)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield Import(file, node.module or "", tuple(alias.name for alias in node.names), at_run_time)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            argument = node.args[0]
            assert isinstance(argument, ast.Constant), f"{file}: imports a module whose name it computes"
            yield Import(file, str(argument.value), (), at_run_time)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_run_time and not is_type_checking(node))

    yield from visit(ast.parse(file.read_text()), True)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(*packages: str) -> list[Import]:
    return [each for package in packages for file in files(package) for each in imports_in(file)]


def top(module: str) -> str:
    return module.partition(".")[0]


def test_there_is_something_to_check() -> None:
    assert len(imports("secagg")) > 100


def test_the_core_imports_four_libraries_and_no_clock_file_socket_or_chance() -> None:
    allowed = CORE_STDLIB | CORE_THIRD_PARTY | {"secagg"}
    wrong = [
        str(each)
        for each in imports("secagg")
        if top(each.module) not in allowed | PROCESSES.get(each.file.relative_to(ROOT).as_posix(), set())
    ]
    assert wrong == []


def test_nothing_but_the_process_made_for_it_imports_tenseal() -> None:
    found = [each for each in imports(*PACKAGES) if each.loads("tenseal", "secagg.ckks_shared.worker")]
    assert {each.file.relative_to(ROOT).as_posix() for each in found} == {"secagg/ckks_shared/worker.py"}


_LOAD_SCHEMES = """
import sys
import secagg.schemes
print("\\n".join(sorted(sys.modules)))
"""


def test_a_process_that_loads_every_scheme_holds_no_tenseal() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_SCHEMES], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    loaded = set(done.stdout.split())
    assert "secagg.ckks_shared.workers" in loaded
    assert {name for name in loaded if top(name) == "tenseal"} == set()


def test_the_core_opens_prints_and_draws_nothing() -> None:
    forbidden = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
    found = []
    for file in files("secagg"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in forbidden:
                found.append(f"{file}:{node.lineno} {node.func.id}")
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("np.random", "numpy.random"):
                found.append(f"{file}:{node.lineno} numpy.random")
            if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "Exception"):
                found.append(f"{file}:{node.lineno} catches everything")
            if isinstance(node, ast.Assert):
                found.append(f"{file}:{node.lineno} assert is no validation")
    assert found == []


def unit(module: str) -> str:
    """'secagg.masked.client' -> 'masked', 'secagg.wire' -> 'wire'."""
    return module.split(".")[1] if "." in module else ""


def unit_of(file: Path) -> str:
    parts = file.relative_to(ROOT / "secagg").with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


def test_every_file_of_the_core_has_its_layer() -> None:
    known = set().union(*LAYERS)
    assert {unit_of(file) for file in files("secagg")} - {""} <= known


def test_inside_the_core_imports_go_down_the_layers_only() -> None:
    wrong = []
    for each in imports("secagg"):
        here, there = unit_of(each.file), unit(each.module)
        if top(each.module) != "secagg" or not each.at_run_time or here == there:
            continue
        if here in SCHEMES and there in SCHEMES_MAY_USE[here]:
            continue
        if not there or layer(there) >= layer(here):
            wrong.append(str(each))
    assert wrong == []


def test_only_schemes_knows_the_schemes() -> None:
    folders = tuple(f"secagg.{name}" for name in SCHEMES)
    own = [ROOT / "secagg" / name for name in SCHEMES]
    found = [each for each in imports(*PACKAGES) if each.loads(*folders)]
    outside = {each.file for each in found if not any(folder in each.file.parents for folder in own)}
    assert {file.relative_to(ROOT).as_posix() for file in outside} == {"secagg/schemes.py"}


def test_packages_depend_on_each_other_in_one_direction() -> None:
    may = {
        "secagg": {"secagg"},
        "keys": {"keys", "secagg"},
        "fedclient": {"fedclient", "keys", "secagg"},
        "fedserver": {"fedserver", "fedclient", "keys", "secagg"},
    }
    wrong = [
        str(each)
        for package in PACKAGES
        for each in imports(package)
        if top(each.module) in PACKAGES and top(each.module) not in may[package]
    ]
    assert wrong == []


def test_keys_know_neither_learning_nor_flower() -> None:
    assert [str(each) for each in imports("keys") if top(each.module) in LEARNING | {"flwr"}] == []


def test_the_server_takes_forms_and_the_audit_from_the_client_alone() -> None:
    taken = [each for each in imports("fedserver") if top(each.module) == "fedclient"]
    wrong = {str(each) for each in taken if each.module not in SHARED and not _takes_only(each, SHARED)}
    assert wrong <= {f"fedserver/demo.py: {DEMO_NUMBERS}"}


def _takes_only(each: Import, allowed: tuple[str, ...]) -> bool:
    return each.module == "fedclient" and bool(each.names) and set(each.dotted()[1:]) <= set(allowed)


def test_the_server_names_no_learning_library_and_no_private_key_code() -> None:
    wrong = [str(each) for each in imports("fedserver") if each.loads(*LEARNING, *PRIVATE_KEY_CODE)]
    assert wrong == []


_LOAD_ALL = """
import importlib, pkgutil, sys
import fedserver
for module in pkgutil.walk_packages(fedserver.__path__, "fedserver."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("\\n".join(sorted(sys.modules)))
"""


def test_a_process_that_loads_the_whole_server_holds_no_learning_and_no_private_key_code() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_ALL], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = set(done.stdout.split())
    assert {f"fedserver.{file.stem}" for file in (ROOT / "fedserver").glob("[a-z]*.py")} <= loaded
    assert {name for name in loaded if top(name) in LEARNING} == set()
    assert not loaded & {*PRIVATE_KEY_CODE, "secagg.ckks_shared.worker"}
    assert {name for name in loaded if top(name) == "tenseal"} == set()
    theirs = {name for name in loaded if top(name) == "fedclient"}
    assert theirs <= {"fedclient", *SHARED, DEMO_NUMBERS}


@pytest.mark.parametrize("command", ["fedserver", "fedclient", "fedkeys"])
def test_help_loads_nothing_that_takes_long_to_load(command: str) -> None:
    module = "keys.cli" if command == "fedkeys" else f"{command}.cli"
    code = f"import sys, {module}\nsys.argv = ['{command}', '--help']\n"
    code += f"try: {module}.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"Usage: {command}" in done.stdout
    loaded = {top(name) for name in done.stderr.split()}
    assert module.split(".", maxsplit=1)[0] in loaded
    assert loaded & (LEARNING | SLOW_TO_LOAD) == set()


def test_private_flower_modules_are_used_in_three_files() -> None:
    found = [each for each in imports(*PACKAGES) if top(each.module) == "flwr" and each.module not in PUBLIC_FLWR]
    assert {each.file.relative_to(ROOT).as_posix() for each in found} == PRIVATE_FLWR_HOMES


@pytest.mark.parametrize(
    ("source", "module", "found"),
    [
        ("import torch.nn", "torch", True),
        ("from keys import store", "keys.store", True),
        ("from keys.store import open_site", "keys.store", True),
        ("import keys.storekeeper", "keys.store", False),
        ("def f():\n    import torch", "torch", True),
        ("import importlib\nimportlib.import_module('torch')", "torch", True),
    ],
)
def test_the_reader_of_imports_sees(tmp_path: Path, source: str, module: str, found: bool) -> None:
    file = tmp_path / "sample.py"
    file.write_text(source)
    assert any(each.loads(module) for each in imports_in(file)) is found
