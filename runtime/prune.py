"""Removes from an installed folder what the runtime does not use: `python prune.py FOLDER`.

FOLDER holds numpy and onnxruntime as pip installs them (`pip install --target`, or a venv's site-packages).
What is left runs ONNX bundles; `pip install --force-reinstall` restores the rest. The script needs no
package.
"""

import shutil
import sys
from pathlib import Path

# Tests, headers and build tools; converters and quantizers of onnxruntime; its C library, of which the
# Python module has a copy of its own.
UNUSED = (
    *("numpy/**/tests", "numpy/**/*.pyi", "numpy/**/*.pxd", "numpy/**/*.a", "numpy/_core/*_tests.*.so"),
    *(
        "numpy/_core/include",
        "numpy/distutils",
        "numpy/f2py",
        "numpy/_pyinstaller",
        "numpy/typing/mypy_plugin.py",
    ),
    *("onnxruntime/capi/libonnxruntime.so*", "onnxruntime/capi/libonnxruntime_providers_*"),
    *("onnxruntime/transformers", "onnxruntime/quantization", "onnxruntime/tools", "onnxruntime/datasets"),
    *("onnxruntime/backend", "**/__pycache__"),
)
NEEDED = ("numpy", "onnxruntime")


def main(argv: list[str] | None = None) -> int:
    """Run the command: 0 pruned, 2 not such a folder."""
    arguments = sys.argv[1:] if argv is None else argv
    folder = Path(arguments[0]) if len(arguments) == 1 else Path()
    if len(arguments) != 1 or not all((folder / name).is_dir() for name in NEEDED):
        sys.stderr.write(f"usage: prune.py FOLDER, which holds {' and '.join(NEEDED)}\n")
        return 2
    before = size(folder)
    for pattern in UNUSED:
        for path in sorted(folder.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
    sys.stdout.write(f"{folder}: {before / 1e6:.0f} MB before, {size(folder) / 1e6:.0f} MB now\n")
    return 0


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


if __name__ == "__main__":
    sys.exit(main())
