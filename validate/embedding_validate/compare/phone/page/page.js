// What the user sees: the plan's cases, how far they are, figures, a plot; each step is sent to the computer.

import { casesOf, download, measure, nameOf } from './measure.js';
import { colour, number, plot } from './plot.js';

const $ = (id) => document.getElementById(id);
const run = crypto.getRandomValues(new Uint32Array(4)).join('-');

async function begin() {
  const plan = await asked('/plan');
  const device = await examined();
  const vectors = plan.random_weights ? ', whose weights are random' : '';
  $('what').textContent = `${plan.graphs.map(({ key }) => key).join(', ')} of ${plan.bundle}${vectors}`;
  if (!device.isolated) warn('This address is no secure context, so the browser gives this page one thread and no WebGPU. The computer says how to get one: adb reverse, or --https.');
  $('name').value = device.model || '';
  $('start').disabled = false;
  $('form').onsubmit = (event) => {
    event.preventDefault();
    $('start').disabled = $('name').disabled = true;
    all(plan, device, $('name').value).catch(failed);
  };
}

async function all(plan, device, label) {
  const cases = casesOf(plan, device);
  const send = (complete) => post({ run, label, complete, machine: machine(device), cases: cases.filter(({ status }) => status !== 'waiting') });
  $('progress').hidden = false;
  const lock = await navigator.wakeLock?.request('screen').catch(() => null);
  let at = 0;
  for (const graph of plan.graphs) {
    const own = cases.filter(({ system, status }) => system === graph.key && status === 'waiting');
    const files = own.length ? await fetched(graph, own) : null;
    for (const one of files ? own : []) {
      one.status = 'begun';
      await send(false);
      await measure(one, plan, files, (stage) => say(`${nameOf(one)}: ${stage}`));
      $('bar').value = ++at / cases.length;
      show(cases);
      await send(false);
    }
  }
  show(cases);
  await send(true);
  await lock?.release();
  $('progress').hidden = true;
  $('end').hidden = false;
  $('end').textContent = 'Done. The figures are on the computer, in compare.html.';
  document.body.dataset.state = 'done';
}

// The graph's files; null where they do not come, which its cases then say.
async function fetched(graph, own) {
  try {
    return await download(graph, (part) => say(`fetching ${graph.key}: ${Math.round(100 * part)} %`));
  } catch (error) {
    for (const one of own) Object.assign(one, { status: 'failed', reason: `fetching its files: ${error.message}` });
    return null;
  }
}

// What the browser tells of the device: some tell its model, most its cores, none of Apple's its memory.
async function examined() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const { vendor, architecture, description } = adapter?.info ?? {};
  return {
    isolated: globalThis.crossOriginIsolated === true,
    cores: navigator.hardwareConcurrency ?? null,
    memory: navigator.deviceMemory ?? null,
    webgpu: adapter ? [vendor, architecture, description].filter(Boolean).join(' ') || 'unnamed' : null,
    model: (await navigator.userAgentData?.getHighEntropyValues(['model']).catch(() => null))?.model,
  };
}

const machine = ({ cores, memory, isolated, webgpu }) => ({ agent: navigator.userAgent, cores, memory_gb: memory, isolated, webgpu });

function show(cases) {
  const tried = cases.filter(({ status }) => !['waiting', 'begun'].includes(status));
  $('cases').replaceChildren(...tried.map(card));
  const series = cases.map((one) => ({ name: nameOf(one), points: measured(one).map(({ tokens, samples_ms }) => [tokens, percentile(samples_ms, 50)]) }))
    .filter(({ points }) => points.length);
  $('plot').hidden = !series.length;
  if (!series.length) return;
  $('svg').replaceChildren(plot(series));
  $('legend').replaceChildren(...series.map(({ name }, i) => made('li', {}, made('i', { class: colour(i) }), name)));
}

const measured = ({ times }) => times.filter(({ status }) => status === 'measured');

function card(one) {
  const parts = [made('h2', {}, nameOf(one))];
  if (one.status === 'measured') {
    parts.push(made('p', { class: 'good' }, `Vectors right: cosine ${one.cosine.toFixed(5)}, largest difference ${one.max_abs_error.toPrecision(2)} of ${one.tolerance} allowed`));
    const memory = one.heap_bytes ? `; ${number(one.heap_bytes / 1e6)} MB of the engine's memory` : '';
    parts.push(made('p', { class: 'soft' }, `Opened in ${number(one.load_s)} s, first run ${number(one.first_ms)} ms${memory}`));
    parts.push(table(one.times));
  } else {
    parts.push(made('p', { class: one.status === 'left out' ? 'soft' : 'bad' }, `${one.status}: ${one.reason}`));
  }
  return made('section', { class: 'box' }, ...parts);
}

function table(times) {
  const rows = times.map(({ tokens, status, reason, samples_ms }) => made('tr', {}, made('td', {}, String(tokens)), ...(status === 'measured'
    ? [50, 95].map((p) => made('td', {}, number(percentile(samples_ms, p)))).concat(made('td', {}, String(samples_ms.length)))
    : [made('td', { colspan: 3, class: 'bad' }, `${status}: ${reason}`)])));
  const head = ['tokens', 'ms (p50)', 'ms (p95)', 'runs'].map((name) => made('th', {}, name));
  return made('table', {}, made('thead', {}, made('tr', {}, ...head)), made('tbody', {}, ...rows));
}

// Between the two nearest samples, as numpy does.
function percentile(samples, p) {
  const sorted = [...samples].sort((a, b) => a - b), at = ((sorted.length - 1) * p) / 100, low = Math.floor(at);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
}

function made(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

async function asked(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

async function post(report) {
  const response = await fetch('/report', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(report) });
  if (!response.ok) throw new Error(`The computer did not take the figures: ${await response.text()}`);
}

const say = (line) => { $('state').textContent = line; };

function warn(line) {
  $('warning').hidden = false;
  $('warning').textContent = line;
}

function failed(error) {
  warn(String((error && error.message) || error));
  document.body.dataset.state = 'failed';
}

begin().catch(failed);
