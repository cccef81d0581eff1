"""The layout is a promise: which folders there are, who may import whom, how long a file may be."""

import ast
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from arm.board import state_of

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "embedding_runtime": ROOT / "runtime" / "embedding_runtime",
    "embedding_export": ROOT / "export" / "embedding_export",
    "embedding_validate": ROOT / "validate" / "embedding_validate",
}


def _modules(name: str, folder: Path) -> dict[str, Path]:
    """Every module of a package, in folders too, by its dotted name; a folder goes by its own."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join((name, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


MODULES = {module: p for name, folder in PACKAGES.items() for module, p in _modules(name, folder).items()}
SOURCES = [
    p
    for top in ("export", "runtime", "validate", "models", "tests")
    for p in sorted((ROOT / top).rglob("*.py"))
]
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "export",
    "findings",
    "models",
    "pyproject.toml",
    "runtime",
    "tests",
    "validate",
}
_INTERFACE = "embedding_export.architectures.interface"
# What validate may use of export, and the one file in which a heavy library may be imported.
VALIDATE_MAY_IMPORT = {
    "embedding_export.audit.audit",
    "embedding_export.checkpoint.checkpoint",
    "embedding_export.audit.dequantized",
    "embedding_export.architectures.registry",
    f"{_INTERFACE}.figures",
    f"{_INTERFACE}.ops",
    f"{_INTERFACE}.tensors",
    "embedding_export.errors",
    "embedding_export.weights.folding",
    "embedding_export.onnx.reader",
    "embedding_export.audit.read_eight_bits",
    "embedding_export.weights.stored",
    "embedding_export.files.tokenizer_file",
    "embedding_export.tokenizer.trimming",
    "embedding_export.composing.held_out_texts",
    "embedding_export.litert.file",
}
# Imports against the direction of a package's folders: none.
LATE: tuple[tuple[str, str], ...] = ()
# Where architectures are named beside their own folders.
KNOWS_ARCHITECTURES = {m for m in MODULES if m.rpartition(".")[0] == "embedding_export.architectures"}
# Modules in a folder of a package, files in a folder of tests.
WIDEST = 12
ONLY_IN = {
    "sentence_transformers": {"embedding_validate.reference.reference"},
    "transformers": {"embedding_validate.reference.reference"},
    "huggingface_hub": {"embedding_export.files.hub"},
}
NEVER_IN_RUNTIME = {
    "torch",
    "transformers",
    "sentence_transformers",
    "huggingface_hub",
    "onnx",
    "safetensors",
    "embedding_export",
    "embedding_validate",
}


def _imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def _imported_modules(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Our own modules that a file imports; a folder only where something of the folder itself is wanted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = (f"{node.module}.{a.name}" for a in node.names)
            found |= {name if name in MODULES else node.module for name in whole}
    return found & MODULES.keys()


def _roots(names: set[str]) -> set[str]:
    return {n.split(".")[0] for n in names}


def test_the_top_level_is_fixed() -> None:
    tracked = {p.name for p in ROOT.iterdir()} - {".git"}
    ignored = set((ROOT / ".gitignore").read_text().replace("/", "").split())
    extra = {n for n in tracked - TOP_LEVEL if n not in ignored and not n.startswith((".venv", ".coverage"))}
    assert extra == set()
    assert tracked >= TOP_LEVEL


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("embedding_runtime")])
def test_the_runtime_imports_nothing_heavy(module: str) -> None:
    assert _roots(_imports(MODULES[module])) & NEVER_IN_RUNTIME == set()


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("embedding_export")])
def test_the_exporter_does_not_know_the_validator(module: str) -> None:
    """cli.py alone imports it, and late, to hand the pipeline its gate."""
    path = MODULES[module]
    names = _imports(path, top_level_only=module == "embedding_export.cli")
    assert "embedding_validate" not in _roots(names)


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("embedding_validate")])
def test_the_validator_goes_through_the_public_runtime(module: str) -> None:
    of_export = {n for n in _imported_modules(MODULES[module]) if n.startswith("embedding_export")}
    assert of_export <= VALIDATE_MAY_IMPORT


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_have_one_door(library: str) -> None:
    users = {m for m, p in MODULES.items() if library in _roots(_imports(p))}
    assert users == {m for m in ONLY_IN[library] if m in MODULES} or users <= ONLY_IN[library]


def test_every_module_is_looked_at(tmp_path: Path) -> None:
    """Modules in folders of folders too, and each folder can be imported: it says what it holds."""
    for name in ("a/__init__.py", "a/b.py", "a/c/__init__.py", "a/c/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert set(_modules("x", tmp_path)) == {"x.a", "x.a.b", "x.a.c", "x.a.c.d"}
    for name, folder in PACKAGES.items():
        walked = {m.name for m in pkgutil.walk_packages([str(folder)], f"{name}.")}
        assert {m for m in MODULES if m.startswith(f"{name}.")} == walked
    named = {*VALIDATE_MAY_IMPORT, *(m for modules in ONLY_IN.values() for m in modules)}
    assert named <= MODULES.keys(), "a name here that is no module forbids nothing"


def test_the_board_notices_a_change_in_any_folder(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    deep = tmp_path / "engines" / "x.py"
    deep.write_text("1")
    before = state_of(tmp_path)
    deep.write_text("2")
    assert state_of(tmp_path) != before


def test_no_import_runs_in_a_circle() -> None:
    graph = {m: _imported_modules(p, top_level_only=True) - {m} for m, p in MODULES.items()}
    assert " -> ".join(_circle(graph)) == ""


def _room(module: str) -> str:
    """The folder that a module lies in; what lies at a package's top is a room of its own."""
    path = MODULES[module]
    parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return module if parent in PACKAGES else parent


def test_no_folder_leads_back_to_itself() -> None:
    """Late imports count too: a room that needs a room above it is in the wrong place."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        rooms = {_room(other) for other in _imported_modules(path)} - {_room(module)}
        graph.setdefault(_room(module), set()).update(rooms)
    for above, below in LATE:
        assert below in graph[above]
        graph[above].remove(below)
    assert " -> ".join(_circle(graph)) == ""


def test_a_circle_is_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ("b", "c", "b")
    assert _circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ()


def _circle(graph: Mapping[str, set[str]]) -> tuple[str, ...]:
    """A way from a node back to itself, or nothing."""
    done: set[str] = set()

    def visit(node: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if node in path:
            return (*path[path.index(node) :], node)
        if node in done:
            return ()
        found = next(filter(None, (visit(other, (*path, node)) for other in sorted(graph[node]))), ())
        done.add(node)
        return found

    return next(filter(None, (visit(node, ()) for node in sorted(graph))), ())


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("embedding_runtime")])
def test_only_an_architecture_knows_its_tensors(module: str) -> None:
    """What a tensor is for is asked of the registry, not read out of its name."""
    of_an_architecture = re.match(r"embedding_export\.architectures\.(?!interface)\w+\.", module)
    named = re.findall(r"self_attn|layernorm|[a-z]_norm\.weight|gemma3", MODULES[module].read_text("utf-8"))
    assert of_an_architecture or module in KNOWS_ARCHITECTURES or named == []


def test_no_folder_is_too_wide() -> None:
    """As many modules as a reader takes in at a glance, and as many files where tests lie."""
    of_tests = (p for p in (ROOT / "tests").rglob("*") if p.is_file() and p.suffix != ".pyc")
    folders = Counter(p.parent for p in (*MODULES.values(), *of_tests) if p.name != "__init__.py")
    assert {str(f.relative_to(ROOT)): n for f, n in folders.items() if n > WIDEST} == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert path.stem not in ("utils", "helpers", "common", "misc")
    assert ast.get_docstring(ast.parse(text)), "a module says what it is for"


@pytest.mark.parametrize("path", [p for p in SOURCES if ROOT / "tests" in p.parents], ids=lambda p: p.stem)
def test_no_test_leans_on_another(path: Path) -> None:
    """What tests share lies in modules of its own: another folder's tests cannot be imported."""
    assert [n for n in _imports(path) if n.startswith("test_")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "findings").glob("*.sh")), ids=lambda p: p.stem)
def test_a_finding_stands_alone(path: Path) -> None:
    """Its header says what was seen, its packages are pinned, and ours are not among them."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"^# (\w+): ", text, re.M) == ["Version", "Behaviour", "Seen", "Matters"]
    installed = re.findall(r"pip\" install ((?:.*\\\n)*.*)", text)
    named = [w for w in " ".join(installed).replace("\\\n", " ").split() if not w.startswith("-")]
    assert named
    assert [w for w in named if not re.fullmatch(r"[\w-]+==[\d.]+", w)] == []
    assert [w for w in named if w.replace("==", " ") not in text.split("set -euo pipefail")[0]] == []
    assert [p for p in (*PACKAGES, "embedding-edge") if p in text] == []
    assert f"({path.name})" in (path.parent / "README.md").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", path], check=True)


def test_importing_the_runtime_stays_light() -> None:
    """In a fresh process: no engine, no tokenizer library, nothing heavy before a bundle is loaded."""
    code = "import sys, embedding_runtime; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {
        "torch",
        "transformers",
        "onnxruntime",
        "ai_edge_litert",
        "tokenizers",
        "huggingface_hub",
        "onnx",
    }
    assert not heavy & set(loaded)
