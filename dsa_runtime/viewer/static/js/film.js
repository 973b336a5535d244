// Film: the ticks that can be gone back to, one bar each in the colour of its steps, under a slider.

import { stepColour } from './charts.js';

export class Film {
  // look(tick or null) while it is dragged, rewind(tick) when it is let go
  constructor(canvas, range, steps, look, rewind) {
    this.canvas = canvas;
    this.range = range;
    this.steps = steps;
    this.dragging = false;
    range.addEventListener('input', () => {
      this.dragging = true;
      look(Number(range.value));
      this.mark();
    });
    range.addEventListener('change', () => {
      this.dragging = false;
      rewind(Number(range.value));
    });
  }

  draw(ticks, state) {
    if (!state) return;
    const { canvas, range } = this;
    if (!this.dragging) {
      Object.assign(range, { min: state.oldest, max: state.tick });
      range.value = state.tick;
    }
    range.setAttribute('aria-valuetext', `tick ${range.value} of ${state.tick}`);
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext('2d');
    context.clearRect(0, 0, width, height);
    const count = Math.max(state.tick - state.oldest, 1), each = width / count;
    const alarm = getComputedStyle(canvas).getPropertyValue('--alarm');
    for (let tick = state.oldest; tick < state.tick; tick++) {
      const info = ticks.get(tick)?.info;
      if (!info) continue;
      context.fillStyle = info.status === 'ok' ? stepColour(info.steps, this.steps) : alarm;
      const tall = (height * info.steps) / this.steps;
      context.fillRect((tick - state.oldest) * each, height - tall, Math.max(each - (each > 3 ? 1 : 0), 0.5), tall);
    }
    this.mark();
  }

  mark() {
    const { min, max, value } = this.range;
    this.range.style.setProperty('--at', max > min ? (value - min) / (max - min) : 1);
  }
}
