// PlayPage: one or two lanes of a world, and everything that can be done with them.

import { Charts } from './charts.js';
import { Film } from './film.js';
import { History, KEPT } from './history.js';
import { Input } from './input.js';
import { TICKS } from './link.js';
import { Meter } from './meter.js';
import { Pads, keyLabel, make } from './pads.js';
import { Panel } from './panel.js';
import { distance } from './picture.js';
import { Reel } from './reel.js';
import { Sentence } from './sentence.js';
import { Stage } from './stage.js';

const $ = (id) => document.getElementById(id);

export class PlayPage {
  constructor(hello, link) {
    this.hello = hello;
    this.link = link;
    this.state = null;
    this.history = new History(KEPT, hello.world.height * hello.world.width * 3);
    this.now = []; // newest info of each lane
    this.preview = null; // tick that is looked at, while paused
    this.told = null; // message whose tick the charts have
    this.meter = new Meter();
    const { world, controls } = hello;
    document.title = `${world.name} · dsa play`;
    Object.assign($('world'), { textContent: `${world.name} ${world.version}`, title: world.description });
    $('machine').textContent = hello.machine;
    this.stage = new Stage($('stage'), world);
    this.reel = new Reel(world.period_ms, (frame) => this.paint(frame));
    this.input = new Input(controls, (hold) => link.send({ do: 'hold', ...hold }), (held, moved) => this.pads.light(held, moved));
    this.pads = new Pads($('pads'), controls, this.input);
    this.panel = new Panel(hello, (settings) => link.send({ do: 'set', ...settings }), (lane, prompt) => link.send({ do: 'prompt', lane, prompt }));
    this.film = new Film($('film'), $('timeline'), world.steps, (tick) => this.lookAt(tick), (tick) => this.rewind(tick));
    this.charts = new Charts($('charts'), world.steps, (tick) => this.lookAt(tick === null ? null : tick + 1));
    this.sentence = new Sentence(world.steps);
    this.bind();
    this.help(controls);
  }

  bind() {
    const { link } = this;
    const actions = {
      play: () => link.send({ do: this.state?.playing ? 'pause' : 'play' }),
      step: () => link.send({ do: 'step' }),
      back: () => this.state && this.rewind(this.state.tick - 1),
      fork: () => this.state && this.state.lanes.length === 1 && link.send({ do: 'fork' }),
      save: () => link.send({ do: 'save', lane: 0 }),
      reset: () => link.send({ do: 'reset', seed: $('seed').value.trim() || '0' }),
      dice: () => {
        const seed = $('seed').value.trim();
        $('seed').value = /^\d+$/.test(seed) ? String((BigInt(seed) + 1n) % (1n << 64n)) : '0';
        actions.reset();
      },
    };
    for (const [id, act] of Object.entries(actions)) {
      $(id).addEventListener('click', (event) => {
        act();
        if (event.detail > 0) $('stage').focus({ preventScroll: true }); // the mouse gives the keys back to the world
      });
    }
    $('seed').addEventListener('keydown', (event) => event.key === 'Enter' && actions.reset());
    document.querySelectorAll('.lane').forEach((lane, index) => {
      lane.querySelector('.keep').addEventListener('click', () => link.send({ do: 'keep', lane: index }));
    });
    $('smooth').addEventListener('change', () => this.stage.smooth($('smooth').checked));
    for (const range of document.querySelectorAll('.setting input[type=range], #timeline')) {
      range.addEventListener('pointerup', () => $('stage').focus({ preventScroll: true }));
    }
    let pointed = false; // whoever chooses with the keys stays in the list
    $('prompt').addEventListener('pointerdown', () => { pointed = true; });
    $('prompt').addEventListener('keydown', () => { pointed = false; });
    $('prompt').addEventListener('change', () => pointed && $('stage').focus({ preventScroll: true }));
    const shortcuts = {
      KeyP: actions.play, Period: actions.step, Comma: actions.back, KeyB: actions.fork, KeyR: actions.reset,
      KeyM: () => $('smooth').click(), Slash: () => $('help').showModal(),
    };
    addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || $('help').open) return;
      if (event.code === 'Escape') $('stage').focus();
      else if (ownsKey(event)) return;
      else if (this.input.keyDown(event)) event.preventDefault();
      else if (shortcuts[event.code] && (!event.repeat || event.code === 'Comma' || event.code === 'Period')) {
        event.preventDefault();
        shortcuts[event.code]();
      }
    });
    addEventListener('keyup', (event) => this.input.keyUp(event));
    $('help-open').addEventListener('click', () => $('help').showModal());
    $('stage').focus({ preventScroll: true });
  }

  found() {
    this.input.repeat();
    if (document.hidden) this.link.send({ do: 'away' });
  }

  text(message) {
    if (message.is === 'state') this.enter(message);
    else if (message.is === 'problem') {
      this.toast(message.text);
      if (this.state) this.panel.enter(this.state.lanes); // what was refused is not so
    }
  }

  binary(message) {
    const { head, kind } = message;
    if (!this.state) return;
    if (kind === TICKS) {
      head.lanes.forEach((info, lane) => {
        // Of many pictures a copy of the last, or it would keep the others.
        this.history.add(lane, info, message.reel.length > 1 ? message.pictures[lane].slice() : message.pictures[lane]);
        this.now[lane] = info;
      });
      this.state.tick = head.lanes[0].tick + 1;
      this.state.oldest = Math.max(this.state.oldest, this.state.tick - this.hello.history);
    } else {
      this.now = message.pictures.map((_, lane) => this.history.at(lane, head.tick - 1)?.info ?? null);
    }
    this.preview = null;
    if (kind !== TICKS) this.reel.clear();
    const frames = message.reel.map((pictures) => ({ pictures, message }));
    if (kind === TICKS && this.input.echo(head.stamp)) frames[0].stamp = head.stamp;
    this.reel.add(frames);
  }

  paint({ pictures, message, stamp }) {
    this.stage.show(pictures, message.height, message.width);
    if (message.kind === TICKS) this.meter.frame(performance.now());
    // The frame of the screen after this one begins when this one has been handed over for display.
    if (stamp !== undefined) requestAnimationFrame(() => this.meter.input(performance.now() - stamp));
    this.tell(this.now);
    if (message === this.told) return;
    this.told = message;
    setTimeout(() => { // the picture is on its way to the screen first
      this.film.draw(this.history.lanes[0], this.state);
      this.charts.drawSoon(this.history.lanes);
      this.meter.show(this.state.playing);
    });
  }

  enter(state) {
    const before = this.state;
    if (before && state.lanes[0].id !== before.lanes[0].id) this.history.promote();
    else if (state.lanes.length < 2) this.history.forgetLane(1);
    if (!before || state.seed !== before.seed || state.tick < before.tick) this.history.forgetFrom(state.tick);
    this.state = state;
    document.body.dataset.playing = state.playing;
    $('play').setAttribute('aria-label', state.playing ? 'Pause' : 'Play');
    $('play').querySelector('use').setAttribute('href', state.playing ? '#i-pause' : '#i-play');
    $('fork').disabled = state.lanes.length > 1;
    if (document.activeElement !== $('seed')) $('seed').value = state.seed;
    this.stage.split(state.lanes.length, state.lanes.map((settings) => this.panel.describe(settings)));
    this.panel.enter(state.lanes);
    this.film.draw(this.history.lanes[0], state);
    this.charts.draw(this.history.lanes);
    this.meter.show(state.playing, true);
  }

  // Where the world would be if it were rewound to `tick`: the picture of the tick before. null: back to now.
  lookAt(tick) {
    if (tick === null ? this.preview === null : this.state?.playing) return;
    const known = tick === null ? null : this.history.at(0, tick - 1);
    this.preview = known ? tick : null;
    const shown = this.preview ?? this.state?.tick;
    const found = [0, 1].map((lane) => this.history.at(lane, shown - 1)).filter(Boolean);
    if (!found.length) return;
    this.reel.clear();
    if (found.every(({ picture }) => picture)) {
      this.stage.show(found.map(({ picture }) => picture), this.hello.world.height, this.hello.world.width);
    }
    this.tell(found.map(({ info }) => info));
  }

  rewind(tick) {
    this.preview = null;
    if (this.state && tick < this.state.tick && tick >= this.state.oldest) this.link.send({ do: 'rewind', tick });
    else if (this.state?.playing) this.link.send({ do: 'pause' });
  }

  tell(infos) {
    const [first, second] = infos;
    $('tick').textContent = `tick ${first ? first.tick + 1 : (this.state?.tick ?? 0)}`;
    if (!first) this.sentence.say('as the world begins');
    else if (!second) this.sentence.say(first.words, first);
    else this.sentence.say(compare(first, second, this.stage.pictures.map(({ shown }) => shown)), first);
    if (this.state) this.stage.caption(infos.map((info) => info?.words ?? ''));
  }

  help(controls) {
    const rows = [
      ...controls.buttons.map(({ name, keys }) => [keys, name.replace(/[_-]/g, ' ')]),
      ...controls.axes.map(({ name, keys }) => [keys.flat(), name.replace(/_/g, ' ')]),
      [['P'], 'pause or go on'], [['.'], 'one tick'], [[','], 'one tick back'], [['B'], 'fork: side by side'],
      [['R'], 'start over'], [['M'], 'smooth picture'], [['Esc'], 'the keys are the world’s again'],
    ];
    for (const [keys, what] of rows) {
      const term = make('dt', '');
      term.append(...keys.map((key) => make('kbd', '', keyLabel(key))));
      $('help-keys').append(term, make('dd', '', what));
    }
  }

  saved(name) {
    this.toast(`Saved ${name}. Draw it again: dsa replay ${name} --verify`);
  }

  toast(text) {
    const toast = $('toast');
    toast.textContent = text;
    toast.hidden = false;
    clearTimeout(this.toasting);
    this.toasting = setTimeout(() => { toast.hidden = true; }, 6000);
  }
}

// Text fields own all keys, sliders the arrows, buttons what presses them.
function ownsKey({ target, code }) {
  if (target.matches?.('input[type=text], select')) return true;
  if (target.matches?.('input[type=range], [role=radio]')) return code.startsWith('Arrow') || ['Home', 'End', 'PageUp', 'PageDown', 'Space'].includes(code);
  return Boolean(target.matches?.('button, input, summary, a')) && ['Space', 'Enter'].includes(code);
}

function compare(first, second, [one, two]) {
  const apart = one && two && one.length === two.length ? distance(one, two).toFixed(1) : '–';
  return `A and B are ${apart} grey levels apart: ${first.steps} ${first.steps === 1 ? 'step' : 'steps'} against ${second.steps}, `
    + `${first.latency.total.toFixed(1)} ms against ${second.latency.total.toFixed(1)}`;
}
