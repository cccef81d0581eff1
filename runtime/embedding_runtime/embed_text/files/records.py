"""One record of an input, and the names of its fields, whatever the file format."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from embedding_runtime.errors import InputError


class Record(NamedTuple):
    """Values by name; `line` is where it starts, or its number in a JSON array or a Parquet file, from 1.

    With an `error` there are no values.
    """

    line: int
    values: dict[str, Any] | None = None
    error: str | None = None


def check_names(header: Sequence[str], layouts: Sequence[Sequence[str]], hint: str = "") -> None:
    """Refuse a header that lacks names of each of `layouts`, or has one of them twice.

    Raises:
        InputError: the message says which names it has.
    """
    layout = next((names for names in layouts if set(names) <= set(header)), None)
    if layout is None:
        missing = " or ".join(str([n for n in names if n not in header]) for names in layouts)
        raise InputError(
            f"The header has the fields {[*header]}, not {missing}. Rename them, or name those to "
            f"read (embed-text --text-field ...). {hint}".rstrip()
        )
    if twice := [n for n in layout if header.count(n) > 1]:
        raise InputError(f"The header has the field {twice[0]!r} twice. Give each column a name of its own.")
