// A graph in onnxruntime-web, in wasm or WebGPU: token ids to a vector.

const FOLDER = '/engines/onnxruntime-web/dist/';

/** What opens a graph in `engine` on so many threads; the engine's own code is loaded. */
export async function prepare(engine, threads) {
  const ort = await import(`${FOLDER}${engine === 'webgpu' ? 'ort.webgpu.min.mjs' : 'ort.wasm.min.mjs'}`);
  ort.env.wasm.wasmPaths = FOLDER;
  ort.env.wasm.numThreads = threads || 1;
  ort.env.logLevel = 'error';
  return async (graph) => {
    const [model, ...data] = await Promise.all(graph.files.map(async ({ blob }) => new Uint8Array(await blob.arrayBuffer())));
    const externalData = data.map((bytes, i) => ({ path: graph.files[i + 1].name, data: bytes }));
    const session = await ort.InferenceSession.create(model, { executionProviders: [engine], externalData });
    return async (ids) => {
      const shape = [1, ids.length], of = (values) => new ort.Tensor('int64', BigInt64Array.from(values), shape);
      const feeds = { input_ids: of(ids.map(BigInt)), attention_mask: of(ids.map(() => 1n)) };
      const { sentence_embedding } = await session.run(feeds, ['sentence_embedding']);
      return sentence_embedding.getData();
    };
  };
}
