"""The steps of Google's EmbeddingGemma tutorial; against sentence-transformers, one import line differs.

Usage: python runtime/examples/tutorial.py BUNDLE
"""

import sys

from embedding_runtime import Embedder as SentenceTransformer

model = SentenceTransformer(sys.argv[1]).to("cpu")
print(f"Device: {model.device}")
print(model)

# Words
words = ["apple", "banana", "car"]
embeddings = model.encode(words)
print(embeddings)
for idx, embedding in enumerate(embeddings):
    print(f"Embedding {idx + 1} (shape): {embedding.shape}")

# How alike two sentences are, without and with a prompt
pairs = [
    [
        "The chef prepared a delicious meal for the guests.",
        "A tasty dinner was cooked by the chef for the visitors.",
    ],
    ["She is an expert in machine learning.", "The weather is sunny today."],
]
for pair in pairs:
    embeddings = model.encode(pair)
    prompted = model.encode(pair, prompt_name="STS")
    plain_score = model.similarity(embeddings[0], embeddings[1])[0][0]
    prompted_score = model.similarity(prompted[0], prompted[1])[0][0]
    print(f"{plain_score:.4f} without a prompt, {prompted_score:.4f} with {model.prompts['STS']!r}: {pair}")

# Question and documents
question = model.encode_query("Which planet is known as the Red Planet?")
documents = ["Venus is often called Earth's twin.", "Mars is often referred to as the Red Planet."]
document_embeddings = model.encode_document(documents)
similarities = model.similarity(question, document_embeddings)
for document, score in zip(documents, similarities[0], strict=True):
    print(f"{score:.4f} {document}")

# Fewer dimensions: here they are normalised again by default
half = model.get_embedding_dimension() // 2
short = model.encode(words, truncate_dim=half, normalize_embeddings=True)
print(f"Shape with truncate_dim={half}: {short.shape}")
