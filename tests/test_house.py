"""The layout is a promise: which folders there are, who may import whom, how long a file may be."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "embedding_runtime": ROOT / "runtime" / "embedding_runtime",
    "embedding_export": ROOT / "export" / "embedding_export",
    "embedding_validate": ROOT / "validate" / "embedding_validate",
}
MODULES = {f"{name}.{p.stem}": p for name, folder in PACKAGES.items() for p in sorted(folder.glob("*.py"))}
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
    "models",
    "pyproject.toml",
    "runtime",
    "tests",
    "validate",
}
# What validate may use of export, and the one file in which a heavy library may be imported.
VALIDATE_MAY_IMPORT = {
    "audit",
    "checkpoint",
    "dequantized",
    "encoder",
    "errors",
    "folding",
    "read_eight_bits",
    "stored",
    "torch_ops",
    "trimming",
}
ONLY_IN = {
    "sentence_transformers": {"embedding_validate.reference"},
    "transformers": {"embedding_validate.reference"},
    "huggingface_hub": {"embedding_export.hub"},
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
    of_export = {n.split(".")[1] for n in _imports(MODULES[module]) if n.startswith("embedding_export.")}
    assert of_export <= VALIDATE_MAY_IMPORT


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_have_one_door(library: str) -> None:
    users = {m for m, p in MODULES.items() if library in _roots(_imports(p))}
    assert users == {m for m in ONLY_IN[library] if m in MODULES} or users <= ONLY_IN[library]


def test_no_import_runs_in_a_circle() -> None:
    graph = {
        m: {n for n in _imports(p, top_level_only=True) if n in MODULES} - {m} for m, p in MODULES.items()
    }

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        for other in graph[module]:
            visit(other, (*path, module))

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert path.stem not in ("utils", "helpers", "common", "misc")
    assert ast.get_docstring(ast.parse(text)), "a module says what it is for"


def test_importing_the_runtime_stays_light() -> None:
    """In a fresh process: no engine, no tokenizer library, nothing heavy before a bundle is loaded."""
    import subprocess

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
