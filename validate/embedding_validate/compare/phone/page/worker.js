// One case in a worker of its own: opens a graph in one engine, compares its golden vectors, then measures.
//
// Gets {graph, engine, threads, texts, seconds}; a file of the graph is {name, blob}. Answers {stage} on its
// way and {done} with the case's figures, or {failed: {status, reason}}. The times of an engine whose vectors
// are wrong are not told. Memory is freed when the page ends the worker.

const ENGINES = { wasm: '/page/onnx.js', webgpu: '/page/onnx.js', 'litert-wasm': '/page/litert.js' };
const LEAST_RUNS = 5, FEWEST_RUNS = 3, MOST_RUNS = 50, LONG_MS = 1000, FIRST_TOKENS = 64;

// The engine's memory, seen where it is made: no browser tells of it otherwise.
let heap = null;
const Memory = WebAssembly.Memory;
WebAssembly.Memory = function (description) {
  heap = new Memory(description);
  return heap;
};
WebAssembly.Memory.prototype = Memory.prototype;

self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ done: await measured(data) });
  } catch (error) {
    self.postMessage({ failed: told(error) });
  }
};

async function measured({ graph, engine, threads, texts, seconds }) {
  const { prepare } = await import(ENGINES[engine]);
  const open = await prepare(engine, threads); // loading is timed without the engine's own code
  say('opening');
  let started = performance.now();
  const run = await open(graph);
  const load_s = (performance.now() - started) / 1e3;
  const lengths = Object.keys(texts).map(Number).sort((a, b) => a - b);
  const nearest = lengths.reduce((a, b) => (Math.abs(b - FIRST_TOKENS) < Math.abs(a - FIRST_TOKENS) ? b : a));
  say('first run');
  started = performance.now();
  await run(texts[nearest]);
  const first_ms = performance.now() - started;
  const found = { cosine: 1, max_abs_error: 0 };
  for (const [i, golden] of graph.golden.entries()) {
    say(`golden vector ${i + 1} of ${graph.golden.length}`);
    compare(golden.vector, await run(golden.ids), found);
  }
  if (!(found.max_abs_error <= graph.tolerance)) return { ...found, status: 'wrong', reason: wrong(found, graph), times: [] };
  const times = [];
  for (const tokens of lengths) {
    say(`${tokens} tokens`);
    times.push(await timed(run, tokens, texts[tokens], seconds));
  }
  return { ...found, status: 'measured', reason: null, load_s, first_ms, heap_bytes: heap && heap.buffer.byteLength, times };
}

async function timed(run, tokens, ids, seconds) {
  const samples_ms = [];
  try {
    await run(ids); // kernels and buffers of this length
    const until = performance.now() + 1e3 * seconds;
    while (samples_ms.length < least(samples_ms) || (performance.now() < until && samples_ms.length < MOST_RUNS)) {
      const started = performance.now();
      await run(ids);
      samples_ms.push(performance.now() - started);
    }
  } catch (error) {
    return { tokens, ...told(error), samples_ms: [] };
  }
  return { tokens, status: 'measured', reason: null, samples_ms };
}

const least = (samples) => (samples.length && samples[0] > LONG_MS ? FEWEST_RUNS : LEAST_RUNS);

// The least cosine and the largest difference of a component so far; 0 and infinite where it is no number.
function compare(expected, vector, found) {
  let product = 0, square = 0, other = 0, error = expected.length === vector.length ? 0 : Infinity;
  for (let i = 0; i < expected.length; i++) {
    product += expected[i] * vector[i];
    square += vector[i] ** 2;
    other += expected[i] ** 2;
    const difference = Math.abs(expected[i] - vector[i]);
    error = Math.max(error, Number.isFinite(difference) ? difference : Infinity);
  }
  const cosine = product / Math.sqrt(square * other);
  found.cosine = Math.min(found.cosine, Number.isFinite(cosine) ? cosine : 0);
  found.max_abs_error = Math.max(found.max_abs_error, error);
}

const wrong = (found, graph) =>
  `not the bundle's vectors: cosine ${found.cosine.toFixed(4)}, largest difference ${found.max_abs_error.toPrecision(3)} of ${graph.tolerance} allowed`;

// What ended it, and which kind of end that is.
function told(error) {
  const reason = typeof error === 'number' ? `the engine threw ${error}` : String((error && error.message) || error).slice(0, 300);
  if (/memory|bad_alloc|\bOOM\b|allocation (failed|size)|Invalid typed array length/i.test(reason)) return { status: 'out of memory', reason };
  if (/not (find an )?implement|not implemented|no(t a)? registered|unsupported|not supported|unknown op/i.test(reason)) {
    return { status: 'not supported', reason };
  }
  return { status: 'failed', reason };
}

const say = (stage) => self.postMessage({ stage });
