#!/usr/bin/env bash
# Version:   usearch 2.26.6, numpy 2.4.6
# Behaviour: an index of dtype "i8" with metric "cos" scales each vector to length 127 before it rounds.
#            A component of a unit vector of n dimensions is about 1/sqrt(n), so the codes stay near zero:
#            the more dimensions, the fewer of the 255 codes are used. Longer input changes nothing.
# Seen:      768 dimensions: codes -21 to 21; cosines off by up to 0.018 (0.0039 on average).
#            int8 codes scaled by each vector's largest component, given to the same index: 0.0015 (0.0003).
# Matters:   i8 is what one takes for an index on a phone, and 768 is a usual width of sentence embeddings.
#            Errors of that size can swap close texts. The better codes cost the same bytes: quantize first
#            and add int8 arrays; cosine needs no scale kept beside them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check usearch==2.26.6 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from usearch.index import Index

COUNT, WIDTH, QUERIES = 400, 768, 20
vectors = np.random.default_rng(0).standard_normal((COUNT, WIDTH)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
true = vectors[:QUERIES] @ vectors.T


def index_of(rows):
    index = Index(ndim=WIDTH, metric="cos", dtype="i8")
    index.add(np.arange(COUNT), rows)
    return index


def errors(rows):
    """Largest and mean error of the cosines that an index of these rows gives, searched exactly."""
    found = index_of(rows).search(rows[:QUERIES], COUNT, exact=True)
    cosines = np.empty_like(true)
    np.put_along_axis(cosines, found.keys.astype(np.int64), 1 - found.distances, axis=1)
    off = np.abs(cosines - true)
    return float(off.max()), float(off.mean())


def codes_of(rows):
    index = index_of(rows)
    return np.stack([np.asarray(index.get(key, dtype="i8")) for key in range(COUNT)])


codes = codes_of(vectors)
own = np.rint(127 * vectors / np.abs(vectors).max(axis=1, keepdims=True)).astype(np.int8)
theirs_worst, theirs_mean = errors(vectors)
own_worst, own_mean = errors(own)
print(f"codes of float vectors: {codes.min()} to {codes.max()}, of int8 vectors: {own.min()} to {own.max()}")
print(f"cosines of float vectors off by up to {theirs_worst:.4f}, {theirs_mean:.4f} on average")
print(f"cosines of int8 vectors  off by up to {own_worst:.4f}, {own_mean:.4f} on average")
changed = []
if int(np.abs(codes.astype(int)).max()) > 40:
    changed.append("codes of float vectors use more of the range")
if not np.array_equal(codes, codes_of(100 * vectors)):
    changed.append("the length of a vector matters now")
if theirs_worst < 5 * own_worst:
    changed.append("cosines of float vectors are nearly as good as those of int8 vectors")
raise SystemExit("CHANGED: " + "; ".join(changed) if changed else 0)
PYTHON
