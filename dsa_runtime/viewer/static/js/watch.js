// WatchPage: the published sessions of a running server, for looking on.

import { Meter } from './meter.js';
import { make } from './pads.js';
import { Stage } from './stage.js';

const COUNTS = {
  sessions: 'sessions', rate: 'ticks a second', ticks: 'ticks', late: 'late', repeated: 'repeated', skipped: 'skipped', refused: 'refused', load: 'load',
};
const $ = (id) => document.getElementById(id);

export class WatchPage {
  constructor(hello, link) {
    this.hello = hello;
    this.link = link;
    this.meter = new Meter();
    this.waiting = null;
    this.before = null;
    document.body.dataset.mode = 'watch';
    document.title = `${hello.machine} · dsa play`;
    $('world').textContent = 'watching';
    $('machine').textContent = hello.machine;
    $('watching').hidden = false;
    $('sentence').textContent = 'nothing is published yet';
    this.stage = new Stage($('stage'), hello.world);
    this.stage.split(1, []);
  }

  found() {
    if (document.hidden) this.link.send({ do: 'away' });
  }

  text(message) {
    if (message.is === 'watch') this.enter(message);
    else if (message.is === 'problem') $('sentence').textContent = message.text;
  }

  binary(message) {
    if (!this.waiting) requestAnimationFrame(() => this.paint());
    this.waiting = message;
  }

  paint() {
    const { pictures, height, width, head } = this.waiting;
    this.waiting = null;
    this.stage.show(pictures, height, width);
    $('sentence').textContent = `tick ${head.tick}`;
    this.meter.frame(performance.now());
    this.meter.show(true);
  }

  enter({ sessions, topic, server }) {
    const rows = sessions.map((session) => {
      const row = make('li', ''), button = make('button', 'session');
      button.type = 'button';
      button.setAttribute('aria-pressed', session.topic === topic);
      button.append(make('code', '', session.topic.slice(0, 8)), make('span', '', `tick ${session.tick}`), make('span', '', `${session.rate.toFixed(1)} fps`));
      button.addEventListener('click', () => this.link.send({ do: 'watch', topic: session.topic }));
      row.append(button);
      return row;
    });
    const focused = [...$('sessions').querySelectorAll('button')].indexOf(document.activeElement);
    $('sessions').replaceChildren(...(rows.length ? rows : [make('li', 'note', 'none yet: open one with publish=True')]));
    if (focused >= 0) $('sessions').querySelectorAll('button')[focused]?.focus();
    if (server.gone) {
      $('sentence').textContent = server.gone;
      return;
    }
    const rate = this.before && server.uptime_ms > this.before.uptime_ms
      ? (1000 * (server.ticks - this.before.ticks)) / (server.uptime_ms - this.before.uptime_ms) : null;
    this.before = server;
    const values = { ...server, rate: rate === null ? undefined : rate.toFixed(1), load: server.load === undefined ? undefined : `${Math.round(100 * server.load)} %` };
    $('counts').replaceChildren(...Object.entries(COUNTS).filter(([name]) => values[name] !== undefined).flatMap(([name, label]) => [make('dt', '', label), make('dd', '', String(values[name]))]));
  }
}
