"""Opens a .tflite file that another tool wrote; runs it on the reference's token ids, one text at a time."""

from dataclasses import dataclass
from pathlib import Path

from embedding_validate.audit.foreign import Foreign, Layout, describe_file
from embedding_validate.reference.answers import Answers
from embedding_validate.runners.calls import Call, Result
from embedding_validate.runners.litert_file import LitertFile, open_file, precision_of


def open_litert(path: Path, answers: Answers) -> Foreign:
    """Open the file; a text runs at the smallest of the file's lengths that holds it.

    Raises:
        EngineError: ai-edge-litert is not installed.  BundleError: it does not load the file.
        InputError: its inputs or outputs have no known layout.
    """
    opened = open_file(path)
    layout = Layout("litert", precision_of(path.read_bytes()), opened.inputs, opened.outputs, opened.lengths)
    return Foreign(_LitertGraph(opened, answers).run, describe_file(path, layout), path, batches=False)


@dataclass(frozen=True)
class _LitertGraph:
    file: LitertFile
    answers: Answers

    def run(self, call: Call) -> list[Result]:
        """Vectors for the reference's ids."""
        ids = [self.answers.by_probe[p.id].ids for p in call.probes]
        return [Result(i, self.file.vector(i)) for i in ids]
