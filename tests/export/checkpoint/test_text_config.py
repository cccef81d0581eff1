"""How text is read: lengths, case, prompts and similarity as in the reference; the rest refused by name."""

from pathlib import Path

import pytest
from edits import ABSENT, Fields, change, reference

from embedding_export.checkpoint.checkpoint import load_checkpoint
from embedding_export.errors import CheckpointError

OWN, MODEL = "sentence_bert_config.json", "config_sentence_transformers.json"

LENGTHS: dict[str, tuple[Fields, Fields]] = {
    "both": ({"max_seq_length": 100, "do_lower_case": True}, {"model_max_length": 90}),
    "tokenizer": ({"max_seq_length": ABSENT}, {"model_max_length": 90}),
    "null": ({"max_seq_length": None}, {"model_max_length": 90}),
    "beyond the positions": ({"max_seq_length": ABSENT}, {"model_max_length": 5000}),
    "no limit": ({"max_seq_length": ABSENT}, {"model_max_length": 1000000000000000019884624838656}),
    "neither": ({"max_seq_length": ABSENT}, {"model_max_length": ABSENT}),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_lengths_and_case_are_those_of_the_reference(editable: Path, case: str) -> None:
    own, tokenizer = LENGTHS[case]
    change(editable / OWN, own)
    change(editable / "tokenizer_config.json", tokenizer)
    checkpoint, model = load_checkpoint(editable), reference(editable)
    assert checkpoint.max_seq_length == model.max_seq_length
    assert checkpoint.do_lower_case == model[0].do_lower_case
    assert not any("max_seq_length" in note for note in checkpoint.source.notes)


def test_a_length_beyond_the_positions_is_cut_and_noted(editable: Path) -> None:
    change(editable / OWN, {"max_seq_length": 4096})
    checkpoint = load_checkpoint(editable)
    assert checkpoint.max_seq_length == 2048
    assert "max_seq_length 4096 reduced to 2048, the encoder's positions" in checkpoint.source.notes


def long_model(folder: Path) -> Path:
    """One of 262,144 positions and without a length of its own, as EmbeddingGemma 2 says of itself."""
    change(folder / "config.json", {"max_position_embeddings": 262_144})
    change(folder / OWN, {"max_seq_length": ABSENT})
    change(folder / "tokenizer_config.json", {"model_max_length": 1e30})
    return folder


def test_a_long_model_reads_the_usual_length_and_more_if_asked(editable: Path) -> None:
    usual = load_checkpoint(long_model(editable))
    assert usual.max_seq_length == 2_048
    assert "texts of up to 2048 tokens; --max-length takes up to 8192" in usual.source.notes
    assert load_checkpoint(editable, max_length=8_192).max_seq_length == 8_192
    change(editable / OWN, {"max_seq_length": 9_000})
    longest = load_checkpoint(editable, max_length=8_192)
    assert "max_seq_length 9000 reduced to 8192, the most that a bundle takes" in longest.source.notes


@pytest.mark.parametrize("asked", [0, 2, -5, 8_193])
def test_a_length_that_the_model_does_not_take_is_refused(editable: Path, asked: int) -> None:
    with pytest.raises(CheckpointError, match=rf"is {asked} tokens; expected 3 to 8192"):
        load_checkpoint(long_model(editable), max_length=asked)


def test_a_text_that_goes_through_a_template_has_it_checked(editable: Path) -> None:
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    change(editable / OWN, {"modality_config": {"text": forward, "message": forward}})
    with pytest.raises(CheckpointError, match=r"has no chat_template\.jinja"):
        load_checkpoint(editable)
    (editable / "chat_template.jinja").write_text("{{ messages[-1].content[0].text }}")
    with pytest.raises(CheckpointError, match="expected the two joined"):
        load_checkpoint(editable)


PROMPTS: dict[str, Fields] = {
    "none": {"prompts": ABSENT},
    "empty": {"prompts": {}},
    "a null": {"prompts": {"query": None, "x": "X: "}},
    "a default": {"prompts": {"x": "X: "}, "default_prompt_name": "x"},
    "a default that always exists": {"prompts": {"x": "X: "}, "default_prompt_name": "query"},
    "dot": {"similarity_fn_name": "dot"},
    "no similarity": {"similarity_fn_name": None},
    "an unknown similarity": {"similarity_fn_name": "maxsim"},
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts_and_similarity_are_those_of_the_reference(editable: Path, case: str) -> None:
    change(editable / MODEL, PROMPTS[case])
    checkpoint, model = load_checkpoint(editable), reference(editable)
    assert list(checkpoint.prompts.items()) == list(model.prompts.items())
    assert checkpoint.default_prompt_name == model.default_prompt_name
    assert checkpoint.similarity_fn_name == model.similarity_fn_name


def test_attention_kernels_are_no_reason_to_refuse(editable: Path) -> None:
    change(editable / OWN, {"model_args": {"attn_implementation": "eager"}})
    load_checkpoint(editable)


UNIGRAM = {"type": "Unigram", "vocab": [["a", 0.0]]}
MESSAGE = {"message": {"method": "forward", "method_output_name": "last_hidden_state"}}

REFUSED: list[tuple[str, Fields, str]] = [
    (OWN, {"max_seq_length": 1}, "texts may have 1 tokens"),
    (OWN, {"max_seq_length": "512"}, "max_seq_length is '512'"),
    (OWN, {"do_lower_case": 1}, "do_lower_case is 1; expected true or false"),
    (OWN, {"query_length": 32}, "query_length is 32"),
    (OWN, {"document_length": 32}, "document_length is 32"),
    (OWN, {"query_expansion": {"length": 32}}, "query_expansion is"),
    (OWN, {"config_args": {"sliding_window": 8}}, "config_args is"),
    (OWN, {"processor_kwargs": {"model_max_length": 9}}, "processor_kwargs is"),
    (OWN, {"processing_kwargs": {"text": {"max_length": 9}}}, "processing_kwargs is"),
    (OWN, {"model_kwargs": {"variant": "fp16"}}, "model_kwargs is"),
    (OWN, {"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
    (OWN, {"module_output_name": "scores"}, "module_output_name is 'scores'"),
    (OWN, {"modality_config": MESSAGE}, "modality_config is .*; expected 'text'"),
    (OWN, {"tokenizer_name_or_path": "x/y"}, "does not know: tokenizer_name_or_path"),
    (MODEL, {"model_type": "SparseEncoder"}, "model_type is SparseEncoder; expected SentenceTransformer"),
    (MODEL, {"default_prompt_name": "x"}, "default_prompt_name is 'x'; expected one of query, document"),
    (MODEL, {"default_prompt_name": []}, "default_prompt_name is .*; expected a string"),
    (MODEL, {"prompts": {"q": 3}}, "q is 3; expected a string"),
    (MODEL, {"prompts": ["q"]}, "prompts is .*; expected an object"),
    ("tokenizer.json", {"model": {"type": "BPE"}}, "is not a tokenizer's file"),
    ("tokenizer.json", {"model": ABSENT}, "is not a tokenizer's file"),
    (
        "tokenizer.json",
        {"model": {"type": "BPE", "vocab": {}}, "added_tokens": []},
        "is not a tokenizer's file",
    ),
    ("tokenizer.json", {"model": UNIGRAM}, "of type Unigram; expected BPE"),
    (
        "tokenizer.json",
        {"added_tokens": [{"id": 4096}]},
        "ids up to 4096, but the embedding table has 4096 rows",
    ),
    ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 5000}}}, "ids up to 5000, but"),
]


@pytest.mark.parametrize(("file", "fields", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_settings_that_are_not_understood_are_refused(
    editable: Path, file: str, fields: Fields, message: str
) -> None:
    change(editable / file, fields)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(editable)
    assert file in str(error.value)


def test_sentencepiece_alone_is_refused_with_the_way_to_convert(editable: Path) -> None:
    (editable / "tokenizer.json").rename(editable / "tokenizer.model")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json.*AutoTokenizer.*save_pretrained"):
        load_checkpoint(editable)
