// The cases of a plan, one after the other, each in a worker of its own that is ended afterwards, or when it
// does not answer. Knows nothing of the page that shows them.

const NOTHING = { cosine: null, max_abs_error: null, load_s: null, first_ms: null, heap_bytes: null, times: [] };

/** Every case of the plan on this device; what cannot be tried here is left out and says why. */
export function casesOf(plan, device) {
  return plan.graphs.flatMap((graph) => engines(plan, graph, device).map(({ engine, threads, reason }) => {
    const made = { system: graph.key, engine, threads, status: 'waiting', reason: null, tolerance: graph.tolerance, ...NOTHING };
    const ended = plan.ended.includes(nameOf(made));
    if (ended) Object.assign(made, { status: 'ended', reason: 'the browser closed the page here: memory may have run out' });
    else if (reason) Object.assign(made, { status: 'left out', reason });
    return made;
  }));
}

function engines(plan, graph, device) {
  const engine = graph.format === 'litert' ? 'litert-wasm' : 'wasm';
  const wasm = plan.threads.map((threads) => ({ engine, threads, reason: threads > 1 ? noThreads(threads, device) : null }));
  return graph.format === 'litert' ? wasm : [...wasm, { engine: 'webgpu', threads: 0, reason: device.webgpu ? null : 'this browser has no WebGPU here' }];
}

function noThreads(threads, device) {
  if (!device.isolated) return 'threads need a secure context: https, or localhost through adb reverse';
  return device.cores && threads > device.cores ? `this browser gives ${device.cores}` : null;
}

/** The name of a case within a run. */
export function nameOf({ system, engine, threads }) {
  return `${system}, ${engine}${threads ? `, ${threads} thread${threads > 1 ? 's' : ''}` : ''}`;
}

/** Measure one case, whose fields are set; `say` hears what it is at. Never waits longer than the plan's limit. */
export async function measure(one, plan, files, say) {
  const graph = plan.graphs.find(({ key }) => key === one.system);
  const texts = Object.fromEntries(graph.lengths.map((tokens) => [tokens, plan.texts[tokens]]));
  const given = { graph: { ...graph, files }, engine: one.engine, threads: one.threads, texts, seconds: plan.seconds };
  Object.assign(one, await answer(given, plan.limit, say));
}

function answer(given, limit, say) {
  return new Promise((resolve) => {
    const worker = new Worker('/page/worker.js');
    let stage = 'loading the engine', timer;
    const end = (fields) => {
      clearTimeout(timer);
      worker.terminate();
      resolve(fields);
    };
    const wait = () => {
      clearTimeout(timer);
      timer = setTimeout(() => end({ status: 'no answer', reason: `${stage}: none within ${limit} s` }), 1e3 * limit);
    };
    worker.onmessage = ({ data }) => {
      if (data.done) return end(data.done);
      if (data.failed) return end({ ...data.failed, reason: `${stage}: ${data.failed.reason}` });
      stage = data.stage;
      say(stage);
      wait();
    };
    worker.onerror = (event) => end({ status: 'failed', reason: `${stage}: ${event.message || 'the worker could not be started'}` });
    wait();
    worker.postMessage(given);
  });
}

/** The files of a graph as blobs, which browsers may keep on disk; `say` hears how far it is, from 0 to 1. */
export async function download(graph, say) {
  const all = graph.files.reduce((sum, { size }) => sum + size, 0);
  let before = 0;
  const found = [];
  for (const { name, url, size } of graph.files) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${name}: the server answers ${response.status}`);
    const parts = [];
    let have = 0, kept = 0;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      have += value.length;
      kept += value.length;
      if (kept > 2 ** 24) { // into a blob now and then, so that no copy of the whole lies in memory
        parts.splice(0, parts.length, new Blob(parts));
        kept = 0;
      }
      say((before + have) / all);
    }
    if (have !== size) throw new Error(`${name}: ${have} bytes came of ${size}`);
    before += have;
    found.push({ name, blob: new Blob(parts) });
  }
  return found;
}
