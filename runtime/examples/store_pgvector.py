"""Lines of a file in PostgreSQL with pgvector, as float, half and binary vectors, and a question to them.

Usage: python runtime/examples/store_pgvector.py BUNDLE FILE INDEX QUESTION
INDEX says how to connect, such as "host=localhost dbname=notes"; the table is made on the first run.
Needs: pip install 'psycopg[binary]' pgvector, and a PostgreSQL with pgvector (Debian: postgresql-17-pgvector)

pgvector's conventions (0.8): <=> gives 1 - cosine, <#> the inner product times -1, <~> how many bits differ.
There is no int8: halfvec, two bytes a component, is the small kind, and bit(N) the smallest. An index serves
only the very expression that it was made of, with ORDER BY and LIMIT. HNSW finds at most hnsw.ef_search rows
(40 unless set) whatever LIMIT says, so that many candidates need it raised. Columns of vector can be indexed
up to 2000 components, halfvec up to 4000, bit up to 64000.
The half and bit indexes find candidates, the float vectors of the table give the scores.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from embedding_runtime import Embedder, check_space, make_stamp

BEST, CANDIDATES = 3, 30
TABLES = """
CREATE TABLE documents_stamp (json text);
CREATE TABLE documents (id bigint PRIMARY KEY, text text, vector vector({0}));
"""
INDEXES = """
CREATE INDEX ON documents USING hnsw ((vector::halfvec({0})) halfvec_cosine_ops);
CREATE INDEX ON documents USING hnsw ((binary_quantize(vector)::bit({0})) bit_hamming_ops);
"""
FLOAT = """
SELECT 1 - (vector <=> %(query)s) AS score, text FROM documents ORDER BY score DESC, id LIMIT %(n)s
"""
RESCORED = """
SELECT 1 - (vector <=> %(query)s) AS score, text FROM (
    SELECT * FROM documents ORDER BY {} LIMIT %(candidates)s
) AS candidates ORDER BY score DESC, id LIMIT %(n)s
"""
NEARNESS = {
    "half": "vector::halfvec({0}) <=> %(query)s::halfvec({0})",
    "binary": "binary_quantize(vector)::bit({0}) <~> binary_quantize(%(query)s)",
}


def connect(database: str) -> Any:
    """A connection that takes and gives NumPy arrays as vectors."""
    connection = import_module("psycopg").connect(database, autocommit=True)
    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    import_module("pgvector.psycopg").register_vector(connection)
    return connection


def build(connection: Any, embedder: Embedder, texts: list[str]) -> None:
    """All or nothing, in one transaction; the stamp is a table of its own."""
    vectors = embedder.encode_document(texts, normalize_embeddings=True)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(TABLES.format(vectors.shape[1]))
        cursor.execute("INSERT INTO documents_stamp VALUES (%s)", (make_stamp(embedder).to_json(),))
        with cursor.copy("COPY documents (id, text, vector) FROM STDIN WITH (FORMAT BINARY)") as rows:
            rows.set_types(["int8", "text", "vector"])
            for number, text in enumerate(texts):
                rows.write_row((number, text, vectors[number]))
        cursor.execute(INDEXES.format(vectors.shape[1]))  # last: faster than row by row


def search(connection: Any, embedder: Embedder, question: str) -> dict[str, list[tuple[float, str]]]:
    """Cosine and text of the best documents, by each kind of vectors."""
    ((stamp,),) = connection.execute("SELECT json FROM documents_stamp").fetchall()
    check_space(json.loads(stamp), embedder)
    query = embedder.encode_query(question, normalize_embeddings=True)
    parameters = {"query": query, "n": BEST, "candidates": CANDIDATES}
    results = {"float": connection.execute(FLOAT, parameters).fetchall()}
    for name, nearness in NEARNESS.items():
        with connection.transaction():
            connection.execute(f"SET LOCAL hnsw.ef_search = {CANDIDATES}")
            asked = RESCORED.format(nearness.format(len(query)))
            results[name] = connection.execute(asked, parameters).fetchall()
    return results


def main(bundle: str, file: str, index: str, question: str) -> None:
    """Print the best lines, by each kind of vectors."""
    with Embedder.load(bundle) as embedder, connect(index) as connection:
        ((table,),) = connection.execute("SELECT to_regclass('documents')").fetchall()
        if table is None:
            build(connection, embedder, Path(file).read_text(encoding="utf-8").splitlines())
        for name, hits in search(connection, embedder, question).items():
            for score, text in hits:
                print(f"{name} {score:.4f} {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
