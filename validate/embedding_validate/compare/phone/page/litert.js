// A graph in LiteRT.js, in wasm: token ids to a vector, in the smallest of the file's lengths that holds them.

const FOLDER = '/engines/@litertjs/core/';

/** What opens a graph on so many threads; the engine's own code is loaded. */
export async function prepare(_, threads) {
  const { loadLiteRt, loadAndCompile, Tensor } = await import(`${FOLDER}dist/index.js`);
  // In a worker its script does not know where it came from, and would look beside the worker's.
  const script = `${FOLDER}wasm/litert_wasm_threaded_internal.js`;
  self.Module = { locateFile: (name) => `${FOLDER}wasm/${name}`, ...(threads > 1 ? { mainScriptUrlOrBlob: script } : {}) };
  await loadLiteRt(`${FOLDER}wasm/`, { threads: threads > 1 });
  return async (graph) => {
    const bytes = new Uint8Array(await graph.files[0].blob.arrayBuffer());
    const model = await loadAndCompile(bytes, { accelerator: 'wasm', cpuOptions: { numThreads: threads } });
    return async (ids) => {
      const { size, run } = signature(model, graph.buckets, ids.length);
      const input = new Tensor(Int32Array.from({ length: size }, (_none, i) => ids[i] ?? graph.pad_id), [1, size]);
      const [output] = await run(input);
      const vector = Float32Array.from(output.toTypedArray());
      input.delete();
      output.delete();
      return vector;
    };
  };
}

// The smallest length that holds so many tokens; a file of one length has one signature of any name.
function signature(model, buckets, tokens) {
  const size = [...buckets].sort((a, b) => a - b).find((bucket) => bucket >= tokens);
  const named = model.signatures[`embed_${size}`];
  return { size, run: (input) => (named ?? model).run([input]) };
}
