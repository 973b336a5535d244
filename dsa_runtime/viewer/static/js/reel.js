// Reel: the pictures of ticks, drawn one after the other: those of a tick evenly over its period.

export class Reel {
  // draw(frame), in a frame of the screen
  constructor(period, draw) {
    this.period = period; // ms
    this.draw = draw;
    this.waiting = []; // oldest first
    this.due = this.pace = 0; // when the first of them is, and the time between two
    this.asked = false;
  }

  // frames: {pictures, ...} of a tick, oldest first, maybe with the stamp of the input that it answers. What is left of
  // the tick before is drawn within this one's period too, so that it does not fall behind; older ones are left out.
  add(frames) {
    const now = performance.now();
    if (!this.waiting.length) this.due = now;
    const late = this.waiting.splice(0, Math.max(this.waiting.length - frames.length + 1, 0));
    overtake(late, frames[0]);
    this.waiting.push(...frames);
    this.pace = this.period / this.waiting.length;
    this.ask();
  }

  clear() {
    this.waiting = [];
  }

  ask() {
    if (this.asked || !this.waiting.length) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.run(performance.now());
      this.ask();
    });
  }

  run(now) {
    let count = 0;
    for (; count < this.waiting.length && this.due <= now; count++) this.due += this.pace;
    if (!count) return;
    const late = this.waiting.splice(0, count), frame = late.pop();
    overtake(late, frame);
    this.draw(frame);
  }
}

// The input of a picture that is never drawn is answered by the next one.
function overtake(late, frame) {
  frame.stamp ??= late.map(({ stamp }) => stamp).filter((stamp) => stamp !== undefined).at(-1);
}
