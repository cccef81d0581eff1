"""The texts that rounding is calibrated on: the built-in ones, or a user's own."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from embedding_export.weights import calibration_texts
from embedding_runtime.embed_text.files.option_files import records, text_of
from embedding_runtime.errors import InputError

OPTION = "--calibration"
# Fewer show of 768 channels and more what one text is like, not what texts are like.
LEAST_TEXTS = 32


@dataclass(frozen=True)
class CalibrationTexts:
    """Different texts; `file` is the name of the file that they came from, without its path (None: they are
    built in)."""

    texts: tuple[str, ...]
    file: str | None = None

    @property
    def sha256(self) -> str:
        """Hex, of all the texts as UTF-8, a line feed after each."""
        return hashlib.sha256("".join(f"{text}\n" for text in self.texts).encode()).hexdigest()

    def described(self, count: int) -> str:
        """What a manifest says of them, `count` of which have been read."""
        some = f"{count}" if count == len(self.texts) else f"{count} of {len(self.texts)}"
        where = "built-in texts" if self.file is None else f"texts of {self.file}"
        return f"{some} {where}, SHA-256 {self.sha256}"


BUILT_IN = CalibrationTexts(calibration_texts.TEXTS)


def read_calibration(path: Path) -> CalibrationTexts:
    """Read a user's texts, in any format that `embed-text` reads: records with `text`, else one per line.

    Raises:
        InputError: the file is missing, unreadable, has what is no text, or too few texts.
        EngineError: it is a Parquet file, and pyarrow is not installed.
    """
    contents = (text_of(record, str(path)) for record in records(path, OPTION, (("text",),)))
    texts = tuple(dict.fromkeys(text for text in contents if text.strip()))
    if len(texts) < LEAST_TEXTS:
        raise InputError(
            f"{path} has {len(texts)} different texts; {OPTION} needs {LEAST_TEXTS} at least, such as the "
            "model will read. Add some, or leave the option out: there are built-in texts."
        )
    return CalibrationTexts(texts, path.name)
