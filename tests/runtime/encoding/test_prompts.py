"""Prompts: which one is taken, how titles get in, what is refused."""

import logging

import pytest

from embedding_runtime.encoding.prompts import PromptChoice, known_prefixes, resolve, resolve_task, with_title
from embedding_runtime.encoding.requests import join_requests, one_title
from embedding_runtime.errors import InputError, InputTypeError

PROMPTS = {"query": "q: ", "document": "title: none | text: ", "STS": "sts: ", "empty": ""}
ALIASES = {"Search Result": "query", "gone": "missing"}


@pytest.mark.parametrize(
    ("choice", "default", "expected"),
    [
        (PromptChoice(), None, ""),
        (PromptChoice(), "STS", "sts: "),
        (PromptChoice(prompt="x "), "STS", "x "),
        (PromptChoice(prompt=""), "STS", ""),
        (PromptChoice(prompt_name="query"), "STS", "q: "),
        (PromptChoice(names=("query",)), "STS", "q: "),
        (PromptChoice(names=("nope", "document")), "STS", "title: none | text: "),
        (PromptChoice(names=("nope",)), "STS", "sts: "),
        (PromptChoice(prompt_name="STS", names=("query",)), None, "sts: "),
        (PromptChoice(task="sts", names=("query",)), None, "sts: "),
        (PromptChoice(task="search result"), None, "q: "),
    ],
)
def test_which_prompt(choice: PromptChoice, default: str | None, expected: str) -> None:
    assert resolve(choice, PROMPTS, ALIASES, default) == expected


def test_prompt_beats_prompt_name_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert resolve(PromptChoice("x ", "query"), PROMPTS, {}, None) == "x "
    assert "prompt_name is ignored" in caplog.text


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (PromptChoice(prompt_name="nope"), "'nope' is unknown.*query.*STS"),
        (PromptChoice(task="nope"), "'nope' is unknown.*query.*Search Result"),
        (PromptChoice(task="gone"), "unknown"),
        (PromptChoice(task="query", prompt="x"), "either task"),
    ],
)
def test_refused(choice: PromptChoice, words: str) -> None:
    with pytest.raises(InputError, match=words):
        resolve(choice, PROMPTS, ALIASES, None)


def test_a_prompt_that_is_no_text() -> None:
    with pytest.raises(InputTypeError, match="prompt is a int"):
        resolve(PromptChoice(prompt=5), PROMPTS, {}, None)  # type: ignore[arg-type]


def test_exact_names_come_before_other_spellings() -> None:
    assert resolve_task("sts", {"STS": "a", "sts": "b"}, {}) == "sts"


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Mars", "title: Mars | text: "),
        ("title: none", "title: title: none | text: "),
        (None, "title: none | text: "),
        ("  ", "title: none | text: "),
    ],
)
def test_titles(title: str | None, expected: str) -> None:
    assert with_title("title: none | text: ", title) == expected


def test_a_prompt_without_a_place_for_a_title() -> None:
    with pytest.raises(InputError, match="has no 'title: none'"):
        with_title("q: ", "Mars")


def test_one_title_per_text() -> None:
    prompt = PROMPTS["document"]
    both = list(join_requests(["a", "b"], prompt, ["A", None]))
    assert [r.prompt + r.text for r in both] == ["title: A | text: a", "title: none | text: b"]
    for texts, titles in ((["a"], ["A", "B"]), (["a", "b"], ["A"]), ([], ["A"])):
        with pytest.raises(InputError, match="expected one title per text"):
            list(join_requests(texts, prompt, titles))


def test_titles_of_a_wrong_type() -> None:
    with pytest.raises(InputTypeError, match="titles is a str"):
        join_requests(["a", "b"], PROMPTS["document"], "ab")
    with pytest.raises(InputTypeError, match=r"titles\[1\] is a int"):
        list(join_requests(["a", "b"], PROMPTS["document"], ["A", 1]))  # type: ignore[list-item]
    assert one_title("Mars") == ["Mars"]


def test_prefixes_to_watch_for() -> None:
    assert known_prefixes(PROMPTS) == ("q: ", "sts: ", "title: none | text: ")
