"""Lines of a file in a LanceDB table, as float, int8 and binary vectors, and a question to them.

Usage: python runtime/examples/store_lancedb.py BUNDLE FILE INDEX QUESTION
INDEX is a folder, made on the first run. Needs: pip install lancedb

LanceDB's conventions (0.40): "cosine" gives 1 - cosine. With an IVF_SQ (int8) or HNSW_SQ index the search
gives about twice that: refine_factor(n) fetches n times as many candidates and gives the true distance of
each, but distance_range() still cuts on the doubled scale, so cut in the program. Rows that are added later
are found without an index until optimize(). Binary vectors are lists of uint8 of numpy.packbits; "hamming"
counts the bits that differ. The stamp is metadata of the table's schema.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embedding_runtime import Embedder, check_space, make_stamp

BEST, TIMES, TABLE, STAMP = 3, 10, "documents", "embedding_stamp"


def connect(folder: str) -> Any:
    """The database in a folder."""
    return import_module("lancedb").connect(folder)


def build(embedder: Embedder, texts: list[str], folder: str) -> None:
    """A table with the float vectors twice: `vector` stays without an index, `int8` gets one."""
    arrow: Any = import_module("pyarrow")
    vectors = embedder.encode_document(texts, normalize_embeddings=True)

    def column(rows: Any) -> Any:
        return arrow.FixedSizeListArray.from_arrays(arrow.array(rows.reshape(-1)), rows.shape[1])

    columns = {
        "text": arrow.array(texts),
        "vector": column(vectors),
        "int8": column(vectors),
        "bits": column(np.packbits(vectors > 0, axis=1)),
    }
    rows = arrow.table(columns).replace_schema_metadata({STAMP: make_stamp(embedder).to_json()})
    table = connect(folder).create_table(TABLE, rows)
    table.create_index(metric="cosine", index_type="IVF_SQ", num_partitions=1, vector_column_name="int8")


def search(embedder: Embedder, folder: str, question: str) -> dict[str, list[tuple[float, str]]]:
    """Cosine and text of the best documents, by each kind of vectors."""
    table = connect(folder).open_table(TABLE)
    check_space(json.loads(table.schema.metadata[STAMP.encode()]), embedder)
    query = embedder.encode_query(question, normalize_embeddings=True)

    def near(name: str) -> Any:
        return table.search(query, vector_column_name=name).distance_type("cosine").limit(BEST)

    results = {"float": near("vector").to_list(), "int8": near("int8").refine_factor(TIMES).to_list()}
    shown = {name: [(1 - hit["_distance"], hit["text"]) for hit in hits] for name, hits in results.items()}
    signs = table.search(np.packbits(query > 0), vector_column_name="bits").distance_type("hamming")
    candidates = signs.limit(TIMES * BEST).to_list()
    rescored = [(float(np.dot(hit["vector"], query)), hit["text"]) for hit in candidates]
    return {**shown, "binary": sorted(rescored, key=lambda hit: -hit[0])[:BEST]}


def main(bundle: str, file: str, index: str, question: str) -> None:
    """Print the best lines, by each kind of vectors."""
    with Embedder.load(bundle) as embedder:
        if not Path(index).exists():
            build(embedder, Path(file).read_text(encoding="utf-8").splitlines(), index)
        for name, hits in search(embedder, index, question).items():
            for score, text in hits:
                print(f"{name} {score:.4f} {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
