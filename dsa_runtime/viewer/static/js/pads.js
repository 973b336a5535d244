// Pads: the controls on the page. They light up, and mouse and fingers hold them.

const KEYS = { ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', Space: 'space' };
export const keyLabel = (code) => KEYS[code] ?? code.replace(/^(Key|Digit)/, '');

export class Pads {
  constructor(root, controls, input) {
    this.input = input;
    this.buttons = new Map();
    this.sliders = [];
    const cross = make('div', 'cross'), acts = make('div', 'acts');
    for (const button of controls.buttons) {
      const element = this.button(button);
      (button.direction ? cross : acts).append(element);
      if (button.direction) element.classList.add(button.direction);
    }
    if (cross.childElementCount) root.append(cross);
    if (acts.childElementCount) root.append(acts);
    if (controls.axes.length > 1) root.append(this.stick());
    if (controls.axes.length) {
      const axes = make('div', 'axes');
      controls.axes.forEach((axis, index) => axes.append(this.slider(axis, index)));
      root.append(axes);
    }
  }

  button({ name, keys }) {
    const element = make('button', 'pad');
    element.type = 'button';
    element.tabIndex = -1; // its key does the same
    element.append(make('span', 'name', name.replace(/[_-]/g, ' ')), keycaps(keys));
    element.setAttribute('aria-label', `${name}: hold ${keys.map(keyLabel).join(' or ')}`);
    element.addEventListener('pointerdown', (event) => {
      event.preventDefault();
      element.setPointerCapture(event.pointerId);
      this.input.press(`touch ${event.pointerId}`, name, event.timeStamp);
    });
    for (const end of ['pointerup', 'pointercancel']) {
      element.addEventListener(end, (event) => this.input.release(`touch ${event.pointerId}`, event.timeStamp));
    }
    element.addEventListener('contextmenu', (event) => event.preventDefault());
    this.buttons.set(name, element);
    return element;
  }

  slider({ name, unit, low, high, rest, keys }, index) {
    const row = make('label', 'axis');
    const range = Object.assign(document.createElement('input'), { type: 'range', min: -1, max: 1, step: 0.01, value: 0 });
    const output = make('output', '');
    row.append(make('span', 'name', name.replace(/_/g, ' ')), keycaps(keys.flat()), output, range);
    const say = (share) => {
      const value = rest + share * (share > 0 ? high - rest : rest - low);
      output.textContent = `${value >= 0 ? '+' : '−'}${Math.abs(value).toFixed(2)} ${unit}`;
    };
    range.addEventListener('input', (event) => this.input.push(`slider ${index}`, index, Number(range.value), event.timeStamp));
    for (const end of ['pointerup', 'pointercancel', 'keyup', 'blur']) {
      range.addEventListener(end, (event) => this.input.push(`slider ${index}`, index, 0, event.timeStamp));
    }
    say(0);
    this.sliders.push({ range, say });
    return row;
  }

  stick() {
    const base = make('div', 'stick'), knob = make('span', 'knob');
    base.append(knob);
    base.setAttribute('aria-hidden', 'true');
    const move = (event) => {
      const box = base.getBoundingClientRect();
      const reach = box.width / 2;
      const clamp = (value) => Math.max(-1, Math.min(1, value / reach));
      const x = clamp(event.clientX - box.left - reach), y = clamp(event.clientY - box.top - reach);
      this.input.push('stick x', 0, x, event.timeStamp);
      this.input.push('stick y', 1, -y, event.timeStamp);
    };
    base.addEventListener('pointerdown', (event) => {
      event.preventDefault();
      base.setPointerCapture(event.pointerId);
      move(event);
    });
    base.addEventListener('pointermove', (event) => event.buttons && move(event));
    for (const end of ['pointerup', 'pointercancel']) {
      base.addEventListener(end, (event) => {
        this.input.push('stick x', 0, 0, event.timeStamp);
        this.input.push('stick y', 1, 0, event.timeStamp);
      });
    }
    this.knob = knob;
    return base;
  }

  light(held, moved) {
    for (const [name, element] of this.buttons) element.classList.toggle('lit', held.has(name));
    this.sliders.forEach(({ range, say }, index) => {
      range.value = moved[index];
      range.parentElement.classList.toggle('lit', moved[index] !== 0);
      say(moved[index]);
    });
    if (this.knob) this.knob.style.translate = `${moved[0] * 38}px ${-moved[1] * 38}px`;
  }
}

function keycaps(keys) {
  const caps = make('span', 'caps');
  for (const key of keys) caps.append(make('kbd', '', keyLabel(key)));
  return caps;
}

export function make(tag, classes, text) {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (text !== undefined) element.textContent = text;
  return element;
}
