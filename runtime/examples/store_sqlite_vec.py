"""Lines of a file in an SQLite database with sqlite-vec, as float, int8 and binary vectors, and a question.

Usage: python runtime/examples/store_sqlite_vec.py BUNDLE FILE INDEX QUESTION
INDEX is the database, made on the first run. Needs: pip install sqlite-vec apsw
(Python's own sqlite3 is often built without extensions; apsw brings an SQLite that loads them.)

sqlite-vec's conventions (0.1.9): distance_metric=cosine gives 1 - cosine; bit[N] counts the bits that differ.
vec_quantize_int8(v, 'unit') cuts fractions off, so every code is 0.45 too low and cosines are 0.01 too high:
round in the program and pass the bytes to vec_int8(). bit[N] and vec_quantize_binary() read the lowest bit
first, numpy.packbits writes the highest first: pass bitorder="little", or numpy's order on both sides alone.
The int8 and bit columns find candidates, the float vectors of an ordinary table give the scores.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime import Embedder, check_space, make_stamp

BEST, CANDIDATES = 3, 30
SCHEMA = """
CREATE TABLE stamp (json TEXT);
CREATE TABLE documents (id INTEGER PRIMARY KEY, text TEXT, vector BLOB);
CREATE VIRTUAL TABLE small USING vec0(
    id INTEGER PRIMARY KEY, codes int8[{0}] distance_metric=cosine, bits bit[{0}]
);
"""
FLOAT = """
SELECT 1 - vec_distance_cosine(vector, :query) AS score, text FROM documents
ORDER BY score DESC, id LIMIT :n
"""
RESCORED = """
SELECT 1 - vec_distance_cosine(vector, :query) AS score, text FROM documents
WHERE id IN (SELECT id FROM small WHERE {column} MATCH {kind}(:asked) AND k = :candidates)
ORDER BY score DESC, documents.id LIMIT :n
"""


def open_database(path: str) -> Any:
    """The database, with sqlite-vec in it."""
    database = import_module("apsw").Connection(path)
    database.enable_load_extension(True)
    database.load_extension(import_module("sqlite_vec").loadable_path())
    return database


def int8_codes(vectors: Any) -> Any:
    """Codes (N, D) from -127 to 127; the cosine needs no scale kept beside them."""
    return np.rint(127 * vectors / np.abs(vectors).max(axis=-1, keepdims=True)).astype(np.int8)


def bits(vectors: Any) -> Any:
    """Signs (N, D / 8), the first in the lowest bit, as vec_quantize_binary() has them."""
    return np.packbits(vectors > 0, axis=-1, bitorder="little")


def build(database: Any, embedder: Embedder, texts: list[str]) -> None:
    """All or nothing, in one transaction; the stamp is a table of its own."""
    vectors = embedder.encode_document(texts, normalize_embeddings=True)
    with database:
        database.execute(SCHEMA.format(vectors.shape[1]))
        database.execute("INSERT INTO stamp VALUES (?)", (make_stamp(embedder).to_json(),))
        for number, text in enumerate(texts):
            vector = vectors[number]
            database.execute("INSERT INTO documents VALUES (?, ?, ?)", (number, text, vector.tobytes()))
            small = (number, int8_codes(vector).tobytes(), bits(vector).tobytes())
            database.execute("INSERT INTO small VALUES (?, vec_int8(?), vec_bit(?))", small)


def search(database: Any, embedder: Embedder, question: str) -> dict[str, list[tuple[float, str]]]:
    """Cosine and text of the best documents, by each kind of vectors."""
    ((stamp,),) = database.execute("SELECT json FROM stamp")
    check_space(json.loads(stamp), embedder)
    query = embedder.encode_query(question, normalize_embeddings=True)
    parameters = {"query": query.tobytes(), "n": BEST}
    results = {"float": list(database.execute(FLOAT, parameters))}
    columns = {"int8": ("codes", "vec_int8", int8_codes(query)), "binary": ("bits", "vec_bit", bits(query))}
    for name, (column, kind, codes) in columns.items():
        more = {**parameters, "asked": codes.tobytes(), "candidates": CANDIDATES}
        results[name] = list(database.execute(RESCORED.format(column=column, kind=kind), more))
    return results


def main(bundle: str, file: str, index: str, question: str) -> None:
    """Print the best lines, by each kind of vectors."""
    new = not Path(index).exists()
    database = open_database(index)
    with Embedder.load(bundle) as embedder:
        if new:
            build(database, embedder, Path(file).read_text(encoding="utf-8").splitlines())
        for name, hits in search(database, embedder, question).items():
            for score, text in hits:
                print(f"{name} {score:.4f} {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
