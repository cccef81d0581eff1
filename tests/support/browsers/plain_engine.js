// onnxruntime-web as its own page shows it, beside the page's case on the same file, in turn: an expression
// that gives [page's median ms, plain median ms] for each round. `KEY`, `THREADS`, `TOKENS`, `ROUNDS` are set.
(async () => {
  const { casesOf, download, measure } = await import('/page/measure.js');
  const ort = await import('/engines/onnxruntime-web/dist/ort.wasm.min.mjs');
  const plan = await (await fetch('/plan')).json();
  const graph = plan.graphs.find(({ key }) => key === KEY);
  const files = await download(graph, () => {});
  const alone = { ...plan, ended: [], seconds: 1, graphs: [{ ...graph, lengths: [TOKENS] }] };
  const device = { isolated: true, cores: 64, webgpu: null };
  const one = () => casesOf(alone, device).find(({ engine, threads }) => engine === 'wasm' && threads === THREADS);
  const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

  ort.env.wasm.wasmPaths = '/engines/onnxruntime-web/dist/';
  ort.env.wasm.numThreads = THREADS;
  const bytes = await Promise.all(files.map(async ({ blob }) => new Uint8Array(await blob.arrayBuffer())));
  const externalData = files.slice(1).map(({ name }, i) => ({ path: name, data: bytes[i + 1] }));
  const session = await ort.InferenceSession.create(bytes[0], { executionProviders: ['wasm'], externalData });
  const ids = plan.texts[TOKENS];
  const tensor = (values) => new ort.Tensor('int64', BigInt64Array.from(values), [1, ids.length]);
  const feeds = { input_ids: tensor(ids.map(BigInt)), attention_mask: tensor(ids.map(() => 1n)) };
  const plain = async () => {
    const samples = [];
    for (const until = performance.now() + 1000; samples.length < 5 || performance.now() < until;) {
      const started = performance.now();
      await session.run(feeds, ['sentence_embedding']);
      samples.push(performance.now() - started);
    }
    return median(samples);
  };
  const found = [];
  for (let round = 0; round < ROUNDS; round++) {
    const ours = one();
    await measure(ours, alone, files, () => {});
    if (ours.status !== 'measured') return ours;
    found.push([median(ours.times[0].samples_ms), await plain()]);
  }
  return found;
})()
