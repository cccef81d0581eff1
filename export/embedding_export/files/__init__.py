"""Files of checkpoints: JSON, safetensors, tokenizer.json, and downloads from the Hub."""
