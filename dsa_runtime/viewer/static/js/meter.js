// Meter: what the status line says, measured in this browser. It tells whoever listens (`tests/bench/bench_viewer.py`).

const FRAMES = 24, INPUTS = 20, SHOWN_EVERY_MS = 500;

export class Meter {
  constructor() {
    this.frames = [];
    this.inputs = [];
    this.shown = 0;
  }

  frame(now) {
    if (this.frames.length && now - this.frames.at(-1) > 1000) this.frames = []; // a pause is no frame rate
    this.frames.push(now);
    if (this.frames.length > FRAMES) this.frames.shift();
    dispatchEvent(new CustomEvent('dsa-frame'));
  }

  input(ms) {
    this.inputs.push(ms);
    if (this.inputs.length > INPUTS) this.inputs.shift();
    dispatchEvent(new CustomEvent('dsa-input', { detail: ms }));
  }

  show(playing, atOnce = false) {
    const now = performance.now();
    if (!atOnce && now - this.shown < SHOWN_EVERY_MS) return;
    this.shown = now;
    const { frames } = this;
    const fps = frames.length > 1 ? (1000 * (frames.length - 1)) / (frames.at(-1) - frames[0]) : 0;
    document.getElementById('fps').textContent = playing && fps ? fps.toFixed(1) : '–';
    const sorted = [...this.inputs].sort((a, b) => a - b);
    document.getElementById('lag').textContent = sorted.length ? Math.round(sorted[sorted.length >> 1]) : '–';
  }
}
