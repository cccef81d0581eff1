// transformers.js on a bundle's folder: prints, as JSON, the ids and vectors of texts.
//
//     node vectors.mjs FOLDER [DTYPE] < texts.json
//
// Loads as its users do: a local folder, AutoTokenizer and AutoModel, the output `sentence_embedding`.

import path from 'node:path';
import { readFileSync, writeFileSync } from 'node:fs';
import { AutoModel, AutoTokenizer, env } from '@huggingface/transformers';

const [folder, dtype] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder);
const name = path.basename(folder);
const texts = JSON.parse(readFileSync(0, 'utf-8'));

const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModel.from_pretrained(name, { dtype, device: 'cpu' });

async function run(batch) {
  const inputs = await tokenizer(batch, { padding: true, truncation: true });
  const { sentence_embedding } = await model(inputs);
  return { ids: inputs.input_ids.tolist().map((row) => row.map(Number)), vectors: sentence_embedding.tolist() };
}

const alone = [];
for (const text of texts) alone.push(await run([text]));
writeFileSync(1, JSON.stringify({ alone, batched: await run(texts) }));
