"""What a library user may call of the exporter and the validator: typed, working, imported when asked for."""

import subprocess
import sys
from pathlib import Path
from typing import assert_type

import pytest

import embedding_export
import embedding_validate
from embedding_export import Checkpoint, ExportOptions, export_bundle, load_checkpoint
from embedding_runtime import Manifest
from embedding_validate import Report, assert_parity, check, parity_gate


def test_three_lines_export_and_prove(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    options = ExportOptions(precisions=("fp32",))
    manifest = export_bundle(checkpoint, tmp_path / "bundle", options, parity_gate(checkpoint))
    assert_type(checkpoint, Checkpoint)
    assert_type(manifest, Manifest)
    assert [g.parity.status for g in manifest.graphs] == ["passed"]
    report = check(tmp_path / "bundle", tiny_checkpoint, ["a text", "another text"])
    assert_type(report, Report)
    assert report.passed
    cosine = report.graphs["onnx/fp32"].cosine
    assert cosine is not None and cosine.minimum > 0.999999
    assert assert_parity(tmp_path / "bundle", tiny_checkpoint, ["a text"]).passed


@pytest.mark.parametrize("package", [embedding_export, embedding_validate])
def test_every_name_is_there_and_no_other(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert list(names) == sorted(names) and len(names) == len(set(names))
    for name in names:
        found = getattr(package, name)
        assert found.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        package.nonsense  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("package", ["embedding_export", "embedding_validate"])
def test_importing_a_package_imports_little(package: str) -> None:
    code = f"import sys, {package}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"torch", "onnx", "numpy", "transformers", "sentence_transformers", "tokenizers", "yaml"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("embedding_export.cli", "export-embedding"),
        ("embedding_runtime.cli", "embed-text"),
        ("embedding_runtime.doctor", "embedding-doctor"),
        ("embedding_validate.cli", "validate-embedding"),
    ],
)
def test_commands_keep_the_modules_that_programs_start_them_by(module: str, command: str) -> None:
    """Users' scripts import them so, whatever becomes of the folders behind."""
    scripts = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'{command} = "{module}:main"' in scripts
    code = f"import sys; from {module} import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "--help"], check=True, capture_output=True, text=True)
    assert f"usage: {command}" in done.stdout
