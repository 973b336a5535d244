// Input: what keyboard, gamepad, mouse and fingers hold, by the names that the server gave.

const DEAD = 0.25; // of a stick
const RELEASE_MS = 150; // a tap is held until a tick has seen it, but not for ever

export class Input {
  // changed({held, moved, stamp}), lit(names, moved)
  constructor(controls, changed, lit) {
    this.controls = controls;
    this.changed = changed;
    this.lit = lit;
    this.pressed = new Map(); // source -> {name, stamp, leaving}
    this.pushed = new Map(); // source -> [axis, value]
    this.sent = '';
    this.seen = -1;
    this.keys = new Map();
    for (const { name, keys } of controls.buttons) for (const key of keys) this.keys.set(key, { name });
    controls.axes.forEach(({ keys }, axis) => {
      for (const [low, high] of keys) {
        this.keys.set(low, { axis, value: -1 });
        this.keys.set(high, { axis, value: 1 });
      }
    });
    addEventListener('blur', (event) => this.releaseAll(event.timeStamp));
    addEventListener('gamepadconnected', () => this.poll());
    addEventListener('gamepaddisconnected', (event) => this.releaseAll(event.timeStamp));
  }

  // Keyboard. Both return whether the key is one of the world's.
  keyDown(event) {
    const bound = this.keys.get(event.code);
    if (!bound) return false;
    if (!event.repeat) this.start(`key ${event.code}`, bound, event.timeStamp);
    return true;
  }

  keyUp(event) {
    const bound = this.keys.get(event.code);
    if (bound) this.stop(`key ${event.code}`, bound, event.timeStamp);
    return Boolean(bound);
  }

  start(source, bound, stamp) {
    if (bound.name !== undefined) this.press(source, bound.name, stamp);
    else this.push(source, bound.axis, bound.value, stamp);
  }

  stop(source, bound, stamp) {
    if (bound.name !== undefined) this.release(source, stamp);
    else this.push(source, bound.axis, 0, stamp);
  }

  press(source, name, stamp) {
    const before = this.pressed.get(source);
    if (before && !before.leaving) return;
    this.pressed.delete(source);
    this.pressed.set(source, { name, stamp, leaving: false });
    this.tell(stamp);
  }

  release(source, stamp) {
    const held = this.pressed.get(source);
    if (!held || held.leaving) return;
    if (held.stamp <= this.seen) {
      this.pressed.delete(source);
      this.tell(stamp);
      return;
    }
    held.leaving = true; // shorter than a tick: it counts for one all the same
    setTimeout(() => this.leave((one) => one === held), RELEASE_MS);
  }

  push(source, axis, value, stamp) {
    if (value === 0) this.pushed.delete(source);
    else this.pushed.set(source, [axis, value]);
    this.tell(stamp);
  }

  releaseAll(stamp) {
    this.pressed.clear();
    this.pushed.clear();
    this.tell(stamp);
  }

  // A tick was made under the input of that time.
  echo(stamp) {
    if (stamp === null || stamp <= this.seen) return false;
    this.seen = stamp;
    this.leave((held) => held.stamp <= stamp);
    return true;
  }

  leave(which) {
    let left = false;
    for (const [source, held] of this.pressed) {
      if (held.leaving && which(held)) left = this.pressed.delete(source);
    }
    if (left) this.tell(performance.now());
  }

  // The server may be a new one.
  repeat() {
    this.sent = '';
    this.tell(performance.now());
  }

  tell(stamp) {
    const held = [...new Set([...this.pressed.values()].map(({ name }) => name))];
    const moved = this.controls.axes.map(() => 0);
    for (const [axis, value] of this.pushed.values()) moved[axis] = Math.max(-1, Math.min(1, moved[axis] + value));
    const text = JSON.stringify([held, moved]);
    if (text === this.sent) return;
    this.sent = text;
    this.changed({ held, moved, stamp });
    this.lit(new Set(held), moved);
  }

  poll() {
    const pads = [...navigator.getGamepads()].filter((pad) => pad?.connected);
    for (const pad of pads) this.readPad(pad);
    if (pads.length) requestAnimationFrame(() => this.poll());
  }

  readPad(pad) {
    const now = performance.now();
    for (const { name, pad: numbers, stick } of this.controls.buttons) {
      const down = numbers.some((number) => pad.buttons[number]?.pressed)
        || (stick.length > 0 && (pad.axes[stick[0]] ?? 0) * stick[1] > 0.5);
      const source = `pad ${pad.index} ${name}`;
      if (down) this.press(source, name, now);
      else this.release(source, now);
    }
    this.controls.axes.forEach(({ stick }, axis) => {
      if (!stick.length) return;
      const value = (pad.axes[stick[0]] ?? 0) * stick[1];
      const source = `pad ${pad.index} axis ${axis}`;
      const pushed = Math.abs(value) < DEAD ? 0 : Math.round(value * 50) / 50;
      if (pushed !== (this.pushed.get(source)?.[1] ?? 0)) this.push(source, axis, pushed, now);
    });
  }
}
