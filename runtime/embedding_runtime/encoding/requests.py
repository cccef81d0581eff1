"""Joins texts, prompts and titles into requests."""

from collections.abc import Callable, Iterable, Iterator

from embedding_runtime.encoding.overflow import Request
from embedding_runtime.encoding.prompts import with_title
from embedding_runtime.errors import InputError, InputTypeError

Titles = str | Iterable[str | None] | None


def join_requests(texts: Iterable[str], prompt: str, titles: Titles = None) -> Iterator[Request]:
    """Every text with the prompt, which carries the text's own title if titles are given.

    Raises:
        InputError: more or fewer titles than texts, or a prompt without a place for one.
        InputTypeError: a title is neither a str nor None.
    """
    if titles is None:
        return (Request(prompt, text) for text in texts)
    if isinstance(titles, str):
        raise InputTypeError("titles is a str, but there are many texts; expected one str or None per text.")
    return _titled(texts, prompt, titles)


def one_title(titles: Titles) -> Titles:
    """The title of a single text, as a list of one."""
    return [titles] if isinstance(titles, str) else titles


def _titled(texts: Iterable[str], prompt: str, titles: Iterable[str | None]) -> Iterator[Request]:
    following = iter(titles)
    index = -1
    for index, text in enumerate(texts):
        try:
            title = next(following)
        except StopIteration:
            raise InputError(
                f"There are {index} titles and more texts; expected one title per text."
            ) from None
        if title is not None and not isinstance(title, str):
            raise InputTypeError(f"titles[{index}] is a {type(title).__name__}; expected a str or None.")
        yield Request(with_title(prompt, title), text)
    if next(following, following) is not following:
        raise InputError(f"There are {index + 1} texts and more titles; expected one title per text.")


def watch_prefixes(
    requests: Iterable[Request], prefixes: tuple[str, ...], notice: Callable[[int], None]
) -> Iterator[Request]:
    """The same requests; `notice` gets the index of each text that would have two prompts."""
    for index, request in enumerate(requests):
        if request.prompt and request.text.startswith(prefixes):
            notice(index)
        yield request
