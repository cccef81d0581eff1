"""A SentencePiece model of a stand-in's tokenizer.json: what a checkpoint's tokenizer.model is."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

CONTROL = ("<pad>", "<eos>", "<bos>")


def sentencepiece_model(tokenizer_json: Path) -> bytes:
    """The serialized model. Pieces merge in the order of their ids, as in Gemma's."""
    proto: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    document = json.loads(tokenizer_json.read_text(encoding="utf-8"))
    added = {token["id"] for token in document["added_tokens"]}
    model = proto.ModelProto()
    kinds = proto.ModelProto.SentencePiece
    for piece, id in sorted(document["model"]["vocab"].items(), key=lambda entry: entry[1]):
        entry = model.pieces.add(piece=piece, score=-float(id))
        if piece in CONTROL:
            entry.type = kinds.CONTROL
        elif piece == "<unk>":
            entry.type = kinds.UNKNOWN
        elif re.fullmatch("<0x[0-9A-F]{2}>", piece):
            entry.type = kinds.BYTE
        elif id in added:
            entry.type = kinds.USER_DEFINED
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = proto.TrainerSpec.BPE, True
    trainer.pad_id, trainer.eos_id, trainer.bos_id, trainer.unk_id = range(4)
    trainer.pad_piece, trainer.eos_piece, trainer.bos_piece, trainer.unk_piece = *CONTROL, "<unk>"
    trainer.vocab_size = len(model.pieces)
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = False
    return bytes(model.SerializeToString())
