#!/usr/bin/env bash
# Version:   transformers 5.23.0, tokenizers 0.23.3
# Behaviour: tokenizer.json has its own list of added tokens, tokenizer_config.json may have a second one
#            (added_tokens_decoder). Where tokenizer_config.json names GemmaTokenizer, the second list wins:
#            an added token that it does not hold is gone after loading, without a warning. Without that
#            list, or with PreTrainedTokenizerFast as the class, all of tokenizer.json's tokens stay.
# Seen:      "a<query>b<doc>" with <doc> in tokenizer.json alone: tokenizers gives [4, 7, 5, 8],
#            PreTrainedTokenizerFast too, GemmaTokenizer [4, 7, 5, 3]: <doc> became the unknown token.
# Matters:   added with the tokenizers library, a token is in tokenizer.json only. Devices read that file;
#            a server with transformers reads both. The two then embed the same text differently, and no
#            file is wrong by itself. Compare ids of the loaded tokenizer with those of tokenizer.json.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    transformers==5.23.0 tokenizers==0.23.3
TRANSFORMERS_VERBOSITY=warning "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models
from transformers import AutoTokenizer

TEXT = "a<query>b<doc>"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
model = Path(sys.argv[1]) / "model"
model.mkdir()
vocabulary = {piece: number for number, piece in enumerate((*SPECIAL, "a", "b", "▁"))}
tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<query>", "<doc>")])
tokenizer.save(str(model / "tokenizer.json"))
added = {
    str(number): {"content": token.content, "special": token.special, "normalized": False,
                  "lstrip": False, "rstrip": False, "single_word": False}
    for number, token in tokenizer.get_added_tokens_decoder().items()
}
without_doc = {number: token for number, token in added.items() if token["content"] != "<doc>"}


def loaded_ids(name, listed):
    """What transformers makes of the text, with a tokenizer_config.json of this class and this list."""
    config = {"tokenizer_class": name, "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
              "pad_token": "<pad>"}
    if listed is not None:
        config["added_tokens_decoder"] = listed
    (model / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return AutoTokenizer.from_pretrained(model)(TEXT, add_special_tokens=False)["input_ids"]


ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
lost = [vocabulary["<unk>"] if i == tokenizer.token_to_id("<doc>") else i for i in ids]
print(f"tokenizer.json by itself: {ids}")
changed = []
for name, kind, listed, expected in (
    ("GemmaTokenizer", "all listed", added, ids),
    ("GemmaTokenizer", "no list", None, ids),
    ("GemmaTokenizer", "<doc> not listed", without_doc, lost),
    ("PreTrainedTokenizerFast", "<doc> not listed", without_doc, ids),
):
    found = loaded_ids(name, listed)
    print(f"{name}, {kind}: {found}")
    if found != expected:
        changed.append(f"{name}, {kind}: {found}, expected {expected}")
raise SystemExit("CHANGED: " + "; ".join(changed) if changed else 0)
PYTHON
