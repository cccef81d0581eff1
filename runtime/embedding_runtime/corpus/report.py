"""What happened to the files of a folder."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedding_runtime.errors import InputError

_SHOWN = 3


@dataclass(frozen=True)
class FileReport:
    """One file: `kept` was finished before, `failed` has no output and says why in `error`.

    `tokens` and `seconds` are those of this run; `without_vector` rows could not be embedded, `cut` ones were
    longer than the bundle reads.
    """

    name: str
    status: Literal["written", "kept", "failed"]
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    without_vector: int = 0
    cut: int = 0
    error: str = ""


@dataclass(frozen=True)
class CorpusReport:
    """All files of a folder, by name."""

    files: tuple[FileReport, ...]

    @classmethod
    def of(cls, reports: Iterable[Mapping[str, Any]]) -> "CorpusReport":
        """The report of a whole folder, from each file's fields.

        Raises:
            InputError: files that could not be embedded; or not one row of any could.
        """
        files = tuple(sorted((FileReport(**fields) for fields in reports), key=lambda f: f.name))
        failed = [f for f in files if f.status == "failed"]
        if failed:
            shown = "\n".join(f"{f.name}: {f.error}" for f in failed[:_SHOWN])
            more = f"\nand {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
            raise InputError(
                f"{len(failed)} of {len(files)} files have no vectors; the others are finished, and the same "
                f"call goes on with these:\n{shown}{more}"
            )
        bad = [f for f in files if f.without_vector]
        if bad and all(f.status == "written" and f.texts == f.without_vector for f in files):
            raise InputError(
                f"None of the rows has a vector; the column 'error' of {bad[0].name} says why. Remove the "
                "files before you call again."
            )
        return cls(files)

    @property
    def texts(self) -> int:
        """Rows of all files, those finished before included."""
        return sum(f.texts for f in self.files)

    @property
    def tokens(self) -> int:
        """Tokens that this run has read."""
        return sum(f.tokens for f in self.files)

    @property
    def tokens_per_second(self) -> float:
        """Of one worker, while it embedded; 0 where every file was finished before."""
        seconds = sum(f.seconds for f in self.files)
        return self.tokens / seconds if seconds else 0.0
