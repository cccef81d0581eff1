"""Chooses how rows are embedded: the prompt, the options and the ranges, and the stamp that says so."""

from typing import Any

from numpy.typing import NDArray

from embedding_runtime.embed_text.job import OnError, Plan
from embedding_runtime.embedder import Embedder
from embedding_runtime.encoding import prompts as prompting
from embedding_runtime.encoding.inputs import check_encodable
from embedding_runtime.encoding.options import Options
from embedding_runtime.errors import InputError
from embedding_runtime.stamps.stamp import Stamp


def make_plan(
    embedder: Embedder,
    options: Options,
    on_error: OnError,
    prompt: str | None,
    titles: bool,
    ranges: NDArray[Any] | None,
) -> Plan:
    """The plan of a run; `options.task` names the prompt unless `prompt` is its text.

    With `titles` and neither of them, the prompt is that of documents, if the bundle has one.

    Raises:
        InputError: an unknown task, a prompt without a place for titles, or one that cannot be encoded.
    """
    task = options.task
    if task is None and prompt is None and titles:
        task = next((n for n in prompting.DOCUMENT_NAMES if embedder.prompts.get(n)), None)
    choice = prompting.PromptChoice(prompt, None, task)
    text = prompting.resolve(
        choice, embedder.prompts, embedder.manifest.aliases, embedder.default_prompt_name
    )
    if titles:
        prompting.with_title(text, None)
    try:
        check_encodable(text)
    except InputError as e:
        raise InputError(f"The prompt {e}") from e
    return Plan(text, titles, options, on_error, ranges)


def planned_stamp(embedder: Embedder, plan: Plan) -> Stamp:
    """The stamp of the vectors that a plan makes.

    Raises:
        InputError: the plan's ranges are not those of such vectors.
    """
    dim, precision = embedder.get_embedding_dimension(), plan.options.precision or "float32"
    return Stamp.of(
        embedder.manifest, embedder.graph, dim, plan.prompt, embedder.prompts, precision, plan.ranges
    )
