#!/usr/bin/env bash
# Version:   sqlite-vec 0.1.9 (in SQLite 3.54.1 of apsw 3.54.1.0), numpy 2.4.6
# Behaviour: vec_quantize_int8(v, 'unit') maps -1 to 1 onto -128 to 127 and cuts the fraction off instead of
#            rounding. The mapping has an offset of half a code, so a positive number comes out about one code
#            too small and a negative one right on average: every code is 0.45 too low in the mean.
# Seen:      768 dimensions: mean code -0.458 (of vectors whose mean is -0.003 codes), cosines between codes
#            0.012 too high on average and off by up to 0.040. Rounded codes of the same range: -0.001,
#            0.000 and 0.012.
# Matters:   components of unit vectors are small (about 5 codes at 768 dimensions), so a shift of half a code
#            is a vector that all texts share: it draws all cosines upwards, and a threshold chosen with
#            float vectors lets more texts through. Round in the program and pass the bytes to vec_int8().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Python's own sqlite3 is often built without extensions; apsw brings an SQLite that loads them.
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    sqlite-vec==0.1.9 apsw==3.54.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import apsw
import numpy as np
import sqlite_vec

database = apsw.Connection(":memory:")
database.enable_load_extension(True)
database.load_extension(sqlite_vec.loadable_path())


def ask(sql, *arrays):
    return database.execute(sql, tuple(array.tobytes() for array in arrays)).fetchone()[0]


def cosines(codes):
    """Of all pairs, as sqlite-vec computes them from int8 codes."""
    sql = "SELECT 1 - vec_distance_cosine(vec_int8(?), vec_int8(?))"
    return np.array([ask(sql, codes[i], codes[j]) for i, j in zip(*pairs)])


vectors = np.random.default_rng(0).standard_normal((100, 768)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
pairs = np.triu_indices(len(vectors), 1)
true = (vectors @ vectors.T)[pairs]

cut = np.stack([np.frombuffer(ask("SELECT vec_quantize_int8(?, 'unit')", v), np.int8) for v in vectors])
rounded = np.rint(127 * vectors).astype(np.int8)
shift, off = {}, {}
for name, codes in (("vec_quantize_int8", cut), ("rounded", rounded)):
    off[name] = cosines(codes) - true
    shift[name] = float(codes.mean())
    print(f"{name}: mean code {shift[name]:.3f} (vectors: {127 * vectors.mean():.3f}), cosines too high by "
          f"{off[name].mean():.4f} on average, off by up to {np.abs(off[name]).max():.4f}")
changed = []
if not -0.6 < shift["vec_quantize_int8"] < -0.3 or abs(shift["rounded"]) > 0.1:
    changed.append("the mean code is no longer half a code too low")
if off["vec_quantize_int8"].mean() < 0.005:
    changed.append("cosines are no longer drawn upwards")
if np.abs(off["vec_quantize_int8"]).max() < 1.5 * np.abs(off["rounded"]).max():
    changed.append("cosines are about as good as with rounded codes")
raise SystemExit("CHANGED: " + "; ".join(changed) if changed else 0)
PYTHON
