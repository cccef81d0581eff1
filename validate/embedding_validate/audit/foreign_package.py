"""Opens a vendor's package, `.task` or `.litertlm`, with the vendor's own client, and gives it texts.

The tokenizer is in the package. The prompt is put before each text here: MediaPipe can add one of its own,
and LiteRT-LM has none.
"""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from embedding_runtime.errors import BundleError, EngineError
from embedding_validate.audit.foreign import Foreign, Layout, describe_file
from embedding_validate.audit.package_client import __name__ as CLIENT
from embedding_validate.reference.answers import Answers
from embedding_validate.runners.calls import Call, Result, with_prompt
from embedding_validate.runners.litert_file import precision_of

# The distribution of each kind's client.
CLIENTS = {".task": "mediapipe", ".litertlm": "litert-lm-api"}
_LAST_LINES = 3


@contextmanager
def open_package(path: Path, answers: Answers) -> Iterator[Foreign]:
    """Within the block, the package in its client.

    Raises:
        BundleError: the client does not open the package, or ends.
    """
    distribution = CLIENTS[path.suffix]
    layout = _task(path) if path.suffix == ".task" else _litertlm(path)
    client = f"{distribution} {importlib.metadata.version(distribution)}"
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", CLIENT, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            package = _Package(path, client, process, log, answers)
            package.hear("opened")
            note = f"Run by {client}, which makes token ids of the texts by the package's own tokenizer."
            graph = describe_file(path, layout)
            yield Foreign(package.run, graph, path, batches=False, notes=(note,), reads_text=True)
        finally:
            process.kill()
            process.communicate()


@dataclass(frozen=True)
class _Package:
    path: Path
    client: str
    process: "subprocess.Popen[str]"
    log: IO[str]
    answers: Answers

    def run(self, call: Call) -> list[Result]:
        """Vectors of the probes' texts, each behind its prompt."""
        return [Result(None, self._vector(self._text(probe))) for probe in call.probes]

    def _text(self, probe: Any) -> str:
        return with_prompt(probe, self.answers.prompts, self.answers.default_prompt_name)

    def _vector(self, text: str) -> Any:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(text) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended, which `hear` tells
        return np.array(self.hear(f"run on {text[:60]!r}")["vector"], np.float32)

    def hear(self, what: str) -> dict[str, Any]:
        """The client's next answer.

        Raises:
            BundleError: it is an error, or the process has ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._end()}
        if "error" in answer:
            raise BundleError(f"{self.path} could not be {what} by {self.client}: {answer['error'][:500]}")
        return answer

    def _end(self) -> str:
        status = self.process.wait()
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        return f"its process ended with status {status}. Its last lines: {' '.join(lines[-_LAST_LINES:])}"


def _task(path: Path) -> Layout:
    """What a .task has inside: a LiteRT file, of which MediaPipe runs the first graph."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".tflite")]
            data = archive.read(names[0]) if names else b""
    except zipfile.BadZipFile as e:
        raise BundleError(f"{path} is no .task: {e}. MediaPipe's packages are zip files.") from e
    if not data:
        raise BundleError(
            f"{path} has no .tflite inside; it has {', '.join(archive.namelist()) or 'nothing'}."
        )
    graph = _model(path, data).Subgraphs(0)
    inputs = [graph.Tensors(graph.Inputs(i)) for i in range(graph.InputsLength())]
    outputs = [graph.Tensors(graph.Outputs(i)) for i in range(graph.OutputsLength())]
    lengths = tuple(int(tensor.ShapeAsNumpy()[-1]) for tensor in inputs[:1] if tensor.ShapeLength())
    return Layout("litert", precision_of(data), _names(inputs), _names(outputs), lengths)


def _litertlm(path: Path) -> Layout:
    """What a .litertlm has inside: the lengths of its text encoder's signatures `encoder...`."""
    try:
        from litert_lm_builder import litertlm_header_schema_py_generated as header
        from litert_lm_builder.litertlm_peek import get_model_type, read_litertlm_header
    except ImportError as e:
        raise EngineError(f"{e.name} is missing. Install it with: pip install litert-lm-builder") from e
    try:
        metadata = read_litertlm_header(str(path), _Nowhere())
        sections = metadata.SectionMetadata()
        objects = [sections.Objects(i) for i in range(sections.ObjectsLength())]
    except Exception as e:  # ValueError, and what FlatBuffers raises on damaged ones
        raise BundleError(f"{path} is no .litertlm: {str(e) or type(e).__name__}.") from e
    found: dict[str, bytes] = {}
    with path.open("rb") as file:
        for section in objects:
            if section.DataType() == header.AnySectionDataType.TFLiteModel:
                file.seek(section.BeginOffset())
                kind = (get_model_type(section) or "").removeprefix("tf_lite_").lower()
                found[kind] = file.read(section.EndOffset() - section.BeginOffset())
    if "text_encoder" not in found:
        raise BundleError(
            f"{path} has no text encoder, so it embeds no texts; it has {', '.join(found) or 'no models'}."
        )
    model = _model(path, found["text_encoder"])
    signatures = [model.SignatureDefs(i) for i in range(model.SignatureDefsLength())]
    lengths = []
    for signature in signatures:
        if signature.SignatureKey().startswith(b"encoder"):
            graph = model.Subgraphs(signature.SubgraphIndex())
            by_name = {
                signature.Inputs(i).Name(): graph.Tensors(signature.Inputs(i).TensorIndex())
                for i in range(signature.InputsLength())
            }
            rows = by_name.get(b"embeddings") or next(iter(by_name.values()))
            lengths.append(int(rows.ShapeAsNumpy()[1]))
    return Layout(
        "litert",
        precision_of(*(found[kind] for kind in ("embedder", "text_encoder") if kind in found)),
        ("text",),
        ("embedding",),
        tuple(sorted(lengths)),
    )


def _model(path: Path, data: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise BundleError(f"{path} has a LiteRT file inside that is none: it begins with {data[:8]!r}.")
    return schema.Model.GetRootAs(data)


def _names(tensors: list[Any]) -> tuple[str, ...]:
    return tuple(tensor.Name().decode() for tensor in tensors)


class _Nowhere:
    """Takes what litert-lm-builder prints."""

    def write(self, text: str) -> int:
        return len(text)
