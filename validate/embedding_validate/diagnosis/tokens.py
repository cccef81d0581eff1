"""Known ways to get token ids wrong; names the one that explains ids which differ from the reference's."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from embedding_validate.probes.probes import Probe
from embedding_validate.reference.reference import Reference

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Mismatch:
    """A probe, the ids that it should give, and the ids that a bundle ran."""

    probe: Probe
    expected: Ids
    actual: Ids


def explain(mismatches: Iterable[Mismatch], reference: Reference) -> list[tuple[str, int]]:
    """The fewest known faults that explain the mismatches, and how many each explains, most first.

    Faults that explain the same mismatches are named together, joined by "or". Mismatches that no fault
    explains are left out.
    """
    left = {i: set(_names(m, reference)) for i, m in enumerate(mismatches)}
    counted = []
    while counts := Counter(name for names in left.values() for name in names):
        most = max(counts.values())
        best, *others = [name for name, n in counts.items() if n == most]
        explained = {i for i, names in left.items() if best in names}
        same = [o for o in others if {i for i, names in left.items() if o in names} == explained]
        counted.append((" or ".join([best, *same]), len(explained)))
        left = {i: names for i, names in left.items() if i not in explained}
    return counted


def _names(m: Mismatch, reference: Reference) -> list[str]:
    """The faults that turn the expected ids, or their text, into the actual ids."""
    whole = reference.whole_ids(m.probe)
    faults: dict[str, Callable[[], Ids]] = {
        "<bos> missing": lambda: m.expected[1:],
        "<eos> missing": lambda: m.expected[:-1],
        "<bos> and <eos> missing": lambda: m.expected[1:-1],
        "<bos> doubled": lambda: (m.expected[0], *m.expected),
        "<eos> doubled": lambda: (*m.expected, m.expected[-1]),
        **_prompt_faults(m, reference),
        "literal control tokens read the other way": lambda: _reread(m.probe, reference),
    }
    if len(whole) > len(m.expected):
        n = len(m.expected)
        faults = {
            "no truncation": lambda: whole,
            "truncated on the left": lambda: (whole[0], *whole[-(n - 1) :]),
            "truncated on the left, <bos> lost": lambda: whole[-n:],
            "truncation loses <eos>": lambda: whole[:n],
        }
    if 1 < len(m.actual) < len(whole):
        faults[f"truncated at {len(m.actual)} tokens"] = lambda: (*whole[: len(m.actual) - 1], whole[-1])
    return [name for name, ids in faults.items() if ids() == m.actual]


def _prompt_faults(m: Mismatch, reference: Reference) -> dict[str, Callable[[], Ids]]:
    probe, prompt = m.probe, reference.prompt_of(m.probe)
    special = probe.allow_special

    def ids(before: str, text: str = probe.text) -> Ids:
        return reference.token_ids(text, before, allow_special=special)

    own = {prompt, *([reference.prompts["document"]] if probe.title is not None else [])}
    families = {p: n for n, p in reversed(reference.prompts.items()) if p not in own}
    faults: dict[str, Callable[[], Ids]] = {
        f"prompt of another family ({name!r})": lambda p=p: ids(p)  # type: ignore[misc]
        for p, name in families.items()
    }
    faults["text stripped"] = lambda: ids(prompt, probe.text.strip())
    faults["text lowercased"] = lambda: ids(prompt, probe.text.lower())
    if prompt:
        faults["prompt missing"] = lambda: ids("")
        faults["prompt doubled"] = lambda: ids(prompt + prompt)
        faults["prompt stripped"] = lambda: ids(prompt.strip())
        faults["prompt and text tokenized apart"] = lambda: (*ids(prompt, "")[:-1], *ids("")[1:])
    if probe.title is not None:
        faults["title ignored"] = lambda: reference.token_ids(
            probe.text, reference.prompts["document"], allow_special=special
        )
    return faults


def _reread(probe: Probe, reference: Reference) -> Ids:
    return reference.token_ids(probe.text, reference.prompt_of(probe), allow_special=not probe.allow_special)
