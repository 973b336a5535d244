// Panel: budget, quality and steps of a lane.

import { make } from './pads.js';

const $ = (id) => document.getElementById(id);

export class Panel {
  // change({lane, budget_ms, threshold, steps}), say(lane, prompt)
  constructor(hello, change, say) {
    this.hello = hello;
    this.change = change;
    this.chosen = 0;
    this.lanes = [];
    const { budget, stops, world } = hello;
    Object.assign($('budget'), { min: budget.least, max: budget.most + 1 });
    $('budget').style.setProperty('--mark', (world.period_ms - budget.least) / (budget.most + 1 - budget.least));
    $('quality').max = stops.length - 1;
    $('budget').addEventListener('input', () => {
      const value = Number($('budget').value);
      this.set({ budget_ms: value > budget.most ? null : value });
    });
    $('quality').addEventListener('input', () => this.set({ threshold: stops[$('quality').value].threshold }));
    const auto = [0, 'auto', 'As the confidence and the budget allow'];
    const fixed = choices(world.steps).map((count) => [count, String(count), `Always ${count}, whatever the budget`]);
    segments($('steps'), [auto, ...fixed], (steps) => this.set({ steps }));
    const { prompts = [] } = hello;
    $('prompts').hidden = !prompts.length;
    $('prompt').append(...prompts.map((text) => Object.assign(make('option', '', text), { value: text, title: text })));
    $('prompt').addEventListener('change', () => say(this.chosen, $('prompt').value));
    segments($('lanes').querySelector('.segments'), [[0, 'A', 'The first'], [1, 'B', 'The second']], (lane) => {
      this.chosen = lane;
      this.show();
    });
  }

  set(part) {
    const settings = { ...this.lanes[this.chosen], ...part };
    this.lanes[this.chosen] = settings;
    this.show();
    const { budget_ms, threshold, steps } = settings;
    this.change({ lane: this.chosen, budget_ms, threshold, steps });
  }

  enter(lanes) {
    $('lanes').hidden = lanes.length < 2;
    if (lanes.length < 2) this.chosen = 0;
    // The second one is what is compared with: that is what one wants to change.
    else if (this.lanes.length < 2) this.chosen = 1;
    this.lanes = lanes.map((settings) => ({ ...settings }));
    this.show();
  }

  show() {
    const { budget_ms, threshold, steps, prompt } = this.lanes[this.chosen];
    const { budget, stops, world } = this.hello;
    if (prompt !== undefined) Object.assign($('prompt'), { value: prompt, title: prompt });
    const stop = this.nearest(threshold);
    $('budget').value = budget_ms ?? budget.most + 1;
    $('budget-out').textContent = budget_ms === null ? 'no limit' : `${+budget_ms.toFixed(1)} ms`;
    $('budget').setAttribute('aria-valuetext', $('budget-out').textContent);
    $('quality').value = stops.indexOf(stop);
    $('quality').disabled = steps > 0;
    $('quality-out').textContent = threshold === 1 ? 'whole schedule' : `confidence ≥ ${share(threshold)}`;
    $('quality').setAttribute('aria-valuetext', $('quality-out').textContent);
    $('quality-note').textContent = steps > 0
      ? `exactly ${steps} of ${world.steps} steps, whatever the confidence`
      : stop.promise || `about ${stop.mean_steps.toFixed(1)} steps a tick${stop.is_default ? ', the world’s default' : ''}`;
    check($('steps'), steps);
    check($('lanes').querySelector('.segments'), this.chosen);
  }

  describe({ budget_ms, threshold, steps, prompt }) {
    const allowed = budget_ms === null ? 'no limit' : `${+budget_ms.toFixed(1)} ms`;
    const told = prompt === undefined ? '' : `, ${prompt}`;
    return (steps > 0 ? `always ${steps}` : `auto ${share(threshold)}, ${allowed}`) + told;
  }

  nearest(threshold) {
    return this.hello.stops.reduce((best, stop) => (Math.abs(stop.threshold - threshold) < Math.abs(best.threshold - threshold) ? stop : best));
  }
}

// All numbers of steps, or of long schedules 1, 2, 4, ... and the whole.
const choices = (steps) => Array.from({ length: steps }, (_, index) => index + 1)
  .filter((count) => steps <= 6 || count === steps || (Number.isInteger(Math.log2(count)) && count <= steps / 2));

const share = (value) => (value === 0 ? '0' : value === 1 ? '1' : value.toFixed(2).slice(1));

function segments(root, options, chosen) {
  for (const [value, label, title] of options) {
    const option = make('button', '', label);
    Object.assign(option, { type: 'button', title });
    option.dataset.value = value;
    option.setAttribute('role', 'radio');
    option.addEventListener('click', () => chosen(value));
    root.append(option);
  }
  root.addEventListener('keydown', (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.code];
    const at = [...root.children].indexOf(document.activeElement);
    if (!by || at < 0) return;
    event.preventDefault();
    const next = root.children[(at + by + root.children.length) % root.children.length];
    next.focus();
    next.click();
  });
}

function check(root, value) {
  for (const option of root.children) {
    const on = Number(option.dataset.value) === value;
    option.setAttribute('aria-checked', on);
    option.tabIndex = on ? 0 : -1;
  }
}
