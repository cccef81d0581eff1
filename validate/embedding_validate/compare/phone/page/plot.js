// Latency against length as SVG elements, readable at 360 pixels. Knows numbers and names alone.

const WIDTH = 340, HEIGHT = 240, LEFT = 48, RIGHT = 10, TOP = 26, BOTTOM = 40, COLOURS = 6;
const SPACE = 'http://www.w3.org/2000/svg';

/** The plot of `series`: [{name, points: [[tokens, ms], ...]}, ...], at least one point in all. */
export function plot(series) {
  const points = series.flatMap((each) => each.points);
  const x = scale(points.map(([tokens]) => tokens), LEFT, WIDTH - RIGHT);
  const y = scale(points.map(([, ms]) => ms), HEIGHT - BOTTOM, TOP);
  const words = series.map((each) => `${each.name}: ${each.points.map(([n, ms]) => `${n} tokens ${number(ms)} ms`).join(', ')}`);
  const svg = element('svg', { role: 'img', viewBox: `0 0 ${WIDTH} ${HEIGHT}`, 'aria-label': words.join('; ') });
  for (const tick of y.ticks) {
    svg.append(element('line', { class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: y.at(tick), y2: y.at(tick) }));
    svg.append(element('text', { x: LEFT - 6, y: y.at(tick) + 4, 'text-anchor': 'end' }, number(tick)));
  }
  for (const tick of x.ticks) {
    svg.append(element('line', { class: 'grid', x1: x.at(tick), x2: x.at(tick), y1: TOP, y2: HEIGHT - BOTTOM }));
    const anchor = x.at(tick) > WIDTH - RIGHT - 14 ? 'end' : 'middle';
    svg.append(element('text', { x: x.at(tick), y: HEIGHT - BOTTOM + 16, 'text-anchor': anchor }, number(tick)));
  }
  svg.append(element('text', { class: 'axis', x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, 'text-anchor': 'middle' }, 'tokens'));
  svg.append(element('text', { class: 'axis', x: LEFT - 6, y: 12, 'text-anchor': 'end' }, 'ms'));
  series.forEach((each, i) => {
    const places = each.points.map(([tokens, ms]) => [x.at(tokens), y.at(ms)]);
    svg.append(element('polyline', { class: `line${i % COLOURS}`, points: places.map((place) => place.join()).join(' ') }));
    for (const [cx, cy] of places) svg.append(element('circle', { class: `fill${i % COLOURS}`, cx, cy, r: 3.5 }));
  });
  return svg;
}

/** The class of the i-th name in the legend. */
export const colour = (i) => `fill${i % COLOURS}`;

/** A figure with three digits at most. */
export function number(value) {
  if (value === null || value === undefined) return '–';
  return value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

// Powers of two around the values, at most six of them as ticks; `from` and `to` are pixels.
function scale(values, from, to) {
  const low = Math.floor(Math.log2(Math.min(...values))), high = Math.max(low + 1, Math.ceil(Math.log2(Math.max(...values)) - 1e-9));
  const step = Math.ceil((high - low) / 6), ticks = [];
  for (let power = low; power <= high; power += step) ticks.push(2 ** power);
  const at = (value) => Number((from + (Math.log2(value) - low) / (high - low) * (to - from)).toFixed(1));
  return { at, ticks };
}

function element(name, attributes, text) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
