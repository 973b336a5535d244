// Charts: steps, confidence after each of them against the threshold, and where the time went, over the newest ticks.
// Drawn by uPlot.

import uPlot from '/static/vendor/uplot/dist/uPlot.esm.js';
import { make } from './pads.js';

const NONE = null;
const CHARTED = 240, CHARTED_SMALL = 120; // ticks
const RAMP = [[44, 122, 140], [72, 187, 158], [244, 205, 100], [238, 118, 82]]; // few steps are cool, many are warm

export function stepColour(step, steps) {
  const place = steps > 1 ? ((step - 1) / (steps - 1)) * (RAMP.length - 1) : 0;
  const index = Math.min(Math.floor(place), RAMP.length - 2);
  const mixed = RAMP[index].map((value, part) => Math.round(value + (RAMP[index + 1][part] - value) * (place - index)));
  return `rgb(${mixed.join(' ')})`;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const bars = uPlot.paths.bars({ size: [0.82, 100] });
const stepped = uPlot.paths.stepped({ align: 1 });

export class Charts {
  // look(tick or null): the pointer is over a tick
  constructor(root, steps, look) {
    this.root = root;
    this.steps = steps;
    this.count = matchMedia('(max-width: 700px)').matches ? CHARTED_SMALL : CHARTED;
    this.look = look;
    this.latest = [new Map(), new Map()];
    this.top = 10;
    this.drawn = this.cost = 0;
    this.build();
    this.watching = new ResizeObserver(() => this.resize());
    this.watching.observe(root);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.build());
  }

  // Of another world from now on.
  schedule(steps) {
    this.steps = steps;
    this.build();
  }

  build() {
    this.root.replaceChildren();
    this.plots = [];
    const { steps } = this;
    const ramp = Array.from({ length: steps }, (_, index) => stepColour(index + 1, steps));
    const fill = (label, paint) => ({ label, paths: bars, fill: paint, width: 0, points: { show: false } });
    const line = (label, paint, extra) => ({ label, paths: stepped, stroke: paint, width: 1.5, points: { show: false }, ...extra });
    const dots = (label, paint, size, joined) => ({
      label, stroke: joined ? paint : undefined, width: joined ? 0.75 : 0, paths: joined ? undefined : () => null,
      points: { show: true, size, fill: paint, width: 0 },
    });
    const text = colour('text'), second = colour('second'), alarm = colour('alarm');

    const named = ramp.map((paint, index) => [paint, String(index + 1)]);
    const told = steps <= 6 ? named : [named[0], named.at(-1)];
    this.add('Steps', 'steps', [0, steps + 0.25], told, [
      ...ramp.map((paint, index) => fill(String(index + 1), paint)), line('B', second), dots('late', alarm, 5, false),
    ], steps <= 6 ? { splits: () => Array.from({ length: steps }, (_, index) => index + 1) } : {});

    const early = named.slice(0, -1), earlyTold = steps <= 6 ? early : [early[0], early.at(-1)];
    const afterEach = earlyTold.map(([paint, label], index) => [paint, index ? label : `after step ${label}`]);
    this.add('Confidence', 'confidence', [0, 1.04], [...afterEach, [colour('accent'), 'the last'], [text, 'threshold', 'dashed']], [
      dots('B', second, 3.5, true), ...early.map(([paint, label]) => dots(label, paint, 4, false)),
      dots('confidence', colour('accent'), 4.5, true), line('threshold', text, { dash: [5, 4], width: 1 }),
    ], { splits: () => [0, 0.25, 0.5, 0.75, 1], values: (_, all) => all.map((value) => (value === 0 || value === 1 ? value : String(value).slice(1))) });

    const stages = [
      [colour('stage-sdk'), 'SDK'], [alarm, 'cut short'], [colour('stage-decode'), 'decode'],
      ...[...named].reverse(), [colour('stage-wait'), 'wait'],
    ];
    const legend = [stages.at(-1), ...told, stages[2], stages[0], [text, 'budget', 'dashed']];
    this.add('Latency, ms', 'latency', () => [0, this.top], legend, [
      ...stages.map(([paint, label]) => fill(label, paint)), line('budget', text, { dash: [5, 4], width: 1 }), line('B', second),
    ], {});
    this.misses = make('span', 'misses', '');
    this.plots[0].heading.append(this.misses);
    this.resize();
    this.draw();
  }

  add(title, kind, range, legend, series, axis) {
    const box = make('div', 'chart'), head = make('header', ''), heading = make('h2', '', title), keys = make('span', 'legend');
    for (const [paint, label, style] of [...legend, [colour('second'), 'B', 'other']]) {
      const key = make('span', `key ${style ?? ''}`);
      const swatch = make('i', '');
      swatch.style.setProperty('--paint', paint);
      key.append(swatch, label);
      keys.append(key);
    }
    const target = make('div', 'plot');
    head.append(heading, keys);
    box.append(head, target);
    this.root.append(box);
    const muted = colour('muted'), grid = { stroke: colour('line'), width: 1 };
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const plot = new uPlot({
      width: 300, height: 100, padding: [6, 12, 0, 0], legend: { show: false },
      scales: { x: { time: false, range: (_, low, high) => [high - this.count + 0.5, high + 0.5] }, y: { range: typeof range === 'function' ? range : () => range } },
      cursor: { sync: { key: 'ticks' }, drag: { x: false, y: false }, y: false, points: { show: false } },
      axes: [
        { stroke: muted, font, size: 20, gap: 2, space: 70, grid: { show: false }, ticks: { show: false }, values: (_, all) => all.map((tick) => (tick >= 0 ? tick : '')) },
        { stroke: muted, font, size: 36, gap: 4, grid, ticks: { show: false }, space: 24, ...axis },
      ],
      series: [{}, ...series],
      hooks: { setCursor: [(drawn) => {
        if (drawn.cursor.event) this.look(drawn.cursor.left >= 0 && drawn.cursor.idx != null ? drawn.data[0][drawn.cursor.idx] : null);
      }] },
    }, [[], ...series.map(() => [])], target);
    plot.over.addEventListener('pointerleave', () => this.look(null));
    this.plots.push({ kind, plot, target, heading });
  }

  resize() {
    for (const { plot, target } of this.plots) {
      const { width, height } = target.getBoundingClientRect();
      if (width > 0 && (plot.width !== width || plot.height !== height)) plot.setSize({ width, height });
    }
  }

  // lanes: of History. Takes a quarter of the time at most, so that a slow machine's pictures come first.
  drawSoon(lanes) {
    const began = performance.now();
    if (began - this.drawn < 3 * this.cost) return;
    this.draw(lanes);
    this.drawn = performance.now();
    this.cost = this.drawn - began;
  }

  draw(lanes = this.latest) {
    this.latest = lanes;
    const newest = Math.max(-1, ...[...lanes[0].keys()].slice(-1));
    const first = newest - this.count + 1;
    const ticks = Array.from({ length: this.count }, (_, index) => first + index);
    const one = ticks.map((tick) => lanes[0].get(tick)?.info), two = ticks.map((tick) => lanes[1].get(tick)?.info);
    const pick = (infos, read) => infos.map((info) => (info ? read(info) : NONE));
    this.scale(one);
    for (const { kind, plot } of this.plots) plot.setData([ticks, ...this.columns(kind, one, two, pick)]);
    const late = one.filter((info) => info && info.status !== 'ok').length;
    this.misses.textContent = late ? `${late} missed` : '';
  }

  columns(kind, one, two, pick) {
    const steps = Array.from({ length: this.steps }, (_, index) => index + 1);
    if (kind === 'steps') {
      const each = steps.map((step) => pick(one, (info) => (info.steps === step ? step : NONE)));
      return [...each, pick(two, (info) => info.steps), pick(one, (info) => (info.status === 'ok' ? NONE : info.steps))];
    }
    if (kind === 'confidence') {
      const early = steps.slice(0, -1).map((step) => pick(one, (info) => (step < info.steps ? info.confidences[step - 1] ?? NONE : NONE)));
      const last = (info) => (info.steps ? info.confidence : NONE);
      return [pick(two, last), ...early, pick(one, last), pick(one, (info) => info.threshold)];
    }
    // Stacked: each bar goes from 0 to where its stage ended, the last stage's is drawn first.
    const ends = pick(one, ({ latency: { wait, denoise, abandoned, decode, sdk } }) => {
      let end = wait;
      const tops = [end];
      for (let step = 0; step < this.steps; step++) tops.push(step < denoise.length ? (end += denoise[step]) : NONE);
      tops.push((end += decode), abandoned ? (end += abandoned) : NONE, end + sdk);
      return tops;
    });
    const stacked = Array.from({ length: this.steps + 4 }, (_, index) => ends.map((tops) => (tops ? tops[index] : NONE))).reverse();
    return [...stacked, pick(one, (info) => info.budget), pick(two, (info) => info.latency.total)];
  }

  // The latency scale holds nearly all ticks, and the budget where that is not far above; single long ticks leave the
  // picture. It does not flicker.
  scale(infos) {
    const known = infos.filter(Boolean);
    const totals = known.map(({ latency }) => latency.total).sort((a, b) => a - b);
    const slow = Math.max(4, totals[Math.floor(0.97 * totals.length)] ?? 0);
    const budget = Math.max(0, ...known.map((info) => info.budget ?? 0));
    const wanted = Math.max(slow, Math.min(budget, 4 * slow)) * 1.15;
    if (wanted > this.top || wanted < this.top * 0.6) this.top = wanted;
  }
}
