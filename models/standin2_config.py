"""The JSON files of an EmbeddingGemma 2 stand-in, in the three layouts that such checkpoints come in.

Knows nothing of weights and of the tokenizer's own file. `published` is the repository's layout, with the
towers' configurations, the processor's files and the chat template; `composite` is what a model that was
loaded for text alone saves; `text` is the text model by itself.
"""

from typing import Any, Literal

from standin2_weights import Shape
from standin_config import CONTROL, NEW_MODULES, PROMPTS, VECTOR
from standin_tokenizer import MEDIA, TURNS, media_ids

Layout = Literal["published", "composite", "text"]

STAGES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
_SEARCH, _DOCUMENT = PROMPTS["query"], PROMPTS["document"]
_CODE, _SIMILAR = "task: code retrieval | query: ", "task: sentence similarity | query: "
PROMPTS_2 = {
    "query": _SEARCH,
    "document": _DOCUMENT,
    "BitextMining": _SEARCH,
    "CodeRetrieval": _CODE,
    "Clustering": PROMPTS["Clustering"],
    "Classification": PROMPTS["Classification"],
    "Document": _DOCUMENT,
    "FactChecking": "task: fact checking | query: ",
    "InstructionRetrieval": _CODE,
    "MultilabelClassification": PROMPTS["Classification"],
    "PairClassification": _SIMILAR,
    "QuestionAnswering": "task: question answering | query: ",
    "Reranking": _SEARCH,
    "Retrieval": _SEARCH,
    "Retrieval-query": _SEARCH,
    "Retrieval-document": _DOCUMENT,
    "SearchQuery": _SEARCH,
    "SentenceSimilarity": _SIMILAR,
    "STS": _SIMILAR,
    "Summarization": _SIMILAR,
}
TEMPLATE = (
    "{%- for m in messages -%}{%- if m['content'] is string -%}{{ m['content'] }}{%- else -%}"
    "{%- for part in m['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}{%- endfor -%}"
)
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
_VERSIONS = {"sentence_transformers": "6.1.0", "transformers": "5.18.0.dev0", "pytorch": "2.13.0"}
_PROCESSOR = "EmbeddingGemma2Processor"
_AUDIO = {
    "feature_extractor_type": "Gemma4AudioFeatureExtractor",
    "feature_size": 128,
    "sampling_rate": 16_000,
    "frame_length": 320,
    "hop_length": 160,
    "fft_length": 512,
}
_IMAGE = {
    "image_processor_type": "Gemma4ImageProcessor",
    "patch_size": 16,
    "max_soft_tokens": 280,
    "pooling_kernel_size": 3,
    "image_seq_length": 280,
}
_VIDEO = {
    "video_processor_type": "EmbeddingGemma2VideoProcessor",
    "patch_size": 16,
    "max_soft_tokens": 140,
    "pooling_kernel_size": 3,
    "fps": 1,
    "max_frames": 32,
}


def documents(shape: Shape, layout: Layout, dtype: str) -> dict[str, Any]:
    """Every JSON file but tokenizer.json and the index of shards: path in the checkpoint, and content."""
    published = layout == "published"
    modalities: dict[str, Any] = {"text": _FORWARD}
    if published:
        modalities |= dict.fromkeys(("image", "audio", "video"), _FORWARD)
        modalities["message"] = _FORWARD | {"format": "structured"}
    files: dict[str, Any] = {
        "config.json": _text(shape, dtype) if layout == "text" else _composite(shape, published, dtype),
        "modules.json": [
            {"idx": i, "name": str(i), "path": folder, "type": NEW_MODULES[kind]}
            for i, (folder, kind) in enumerate(STAGES)
        ],
        "1_Pooling/config.json": {
            "embedding_dimension": shape.embedding,
            "pooling_mode": "mean",
            "include_prompt": True,
        },
        "2_Normalize/config.json": VECTOR,
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": modalities,
            "module_output_name": "token_embeddings",
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "__version__": _VERSIONS,
            "prompts": PROMPTS_2,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "tokenizer_config.json": _tokenizer(layout),
    }
    if not published:
        return files
    parts = {"feature_extractor": _AUDIO, "image_processor": _IMAGE, "video_processor": _VIDEO}
    lengths = {"image_seq_length": 280, "audio_seq_length": 280, "audio_ms_per_token": 40}
    return files | {
        "preprocessor_config.json": _AUDIO,
        "processor_config.json": {"processor_class": _PROCESSOR, **parts, **lengths},
    }


def _composite(shape: Shape, published: bool, dtype: str) -> dict[str, Any]:
    """The text model beside towers for images and sound, or beside none."""
    ids = media_ids(shape.vocab)
    vision = {"model_type": "gemma4_vision", "hidden_size": 768, "num_hidden_layers": 16}
    audio = {"model_type": "gemma4_audio", "hidden_size": 1_024, "num_hidden_layers": 12}
    return {
        "architectures": ["EmbeddingGemma2Model"],
        "audio_config": audio if published else None,
        "audio_token_id": ids["audio_token"],
        "boa_token_id": ids["boa_token"],
        "boi_token_id": ids["boi_token"],
        "dtype": dtype,
        "eoa_token_index": ids["eoa_token"],
        "eoi_token_id": ids["eoi_token"],
        "image_token_id": ids["image_token"],
        "initializer_range": 0.02,
        "model_type": "embedding_gemma2",
        "random_weights": True,
        "text_config": {
            key: value
            for key, value in _text(shape, dtype).items()
            if key not in ("architectures", "random_weights", "transformers_version")
        },
        "transformers_version": "5.18.0.dev0",
        "video_token_id": ids["video_token"],
        "vision_config": vision if published else None,
    }


def _text(shape: Shape, dtype: str) -> dict[str, Any]:
    kinds = ["full_attention" if wide else "sliding_attention" for wide in shape.layers]
    wide = {"head_dim": shape.global_head_dim, "num_key_value_heads": shape.global_kv_heads}
    bases = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}
    return {
        "architectures": ["EmbeddingGemma2TextModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "dtype": dtype,
        "embedding_dim": shape.embedding,
        "eos_token_id": 1,
        "head_dim": shape.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": shape.hidden,
        "hidden_size_per_layer_input": shape.per_layer,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "layer_types": kinds,
        "max_position_embeddings": shape.max_length,
        "model_type": "embedding_gemma2_text",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": len(shape.layers),
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": 0,
        "per_layer_config": {f"{i:02d}": wide for i, kind in enumerate(kinds) if kind == "full_attention"},
        "random_weights": True,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {k: {"rope_theta": b, "rope_type": "default"} for k, b in bases.items()},
        "sliding_window": shape.sliding_window,
        "transformers_version": "5.18.0.dev0",
        "vocab_size": shape.vocab,
    }


def _tokenizer(layout: Layout) -> dict[str, Any]:
    """tokenizer_config.json, which names no length; only a processor's tokenizer says so."""
    names = {**MEDIA, **TURNS}
    return {
        **CONTROL,
        "mask_token": "<mask>",
        **names,
        "backend": "tokenizers",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
        "model_specific_special_tokens": names,
        "padding_side": "right",
        **({"processor_class": _PROCESSOR} if layout == "published" else {}),
        "tokenizer_class": "GemmaTokenizer",
    }
