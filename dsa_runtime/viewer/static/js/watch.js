// WatchPage: the published sessions of a running server, for looking on: one of them with what was decided in its ticks.

import { Charts } from './charts.js';
import { History, KEPT } from './history.js';
import { TICKS } from './link.js';
import { Meter } from './meter.js';
import { make } from './pads.js';
import { Sentence } from './sentence.js';
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
    this.topic = null;
    this.newest = -1; // tick in the charts
    document.body.dataset.mode = 'watch';
    document.title = `${hello.machine} · dsa play`;
    $('world').textContent = 'watching';
    $('machine').textContent = hello.machine;
    $('watching').hidden = false;
    const { world } = hello;
    this.history = new History(KEPT, world.height * world.width * 3);
    this.stage = new Stage($('stage'), world);
    this.stage.split(1, []);
    this.charts = new Charts($('charts'), world.steps, () => {});
    this.sentence = new Sentence(world.steps);
    this.sentence.say('nothing is published yet');
  }

  found() {
    if (document.hidden) this.link.send({ do: 'away' });
  }

  text(message) {
    if (message.is === 'watch') this.enter(message);
    else if (message.is === 'problem') this.sentence.say(message.text);
  }

  binary(message) {
    this.remember(message);
    if (!this.waiting) requestAnimationFrame(() => this.paint());
    this.waiting = message;
  }

  // Time goes on, unless the session was taken elsewhere: another one is watched, or it was reset, rewound, restored.
  remember({ head, kind }) {
    const known = head.topic === this.topic;
    this.topic = head.topic;
    if (kind === TICKS) {
      const [info] = head.lanes;
      if (!known || info.tick < this.newest) this.history.forgetFrom(0);
      this.history.add(0, info, null);
      this.newest = info.tick;
      if (head.steps !== this.charts.steps) for (const part of [this.charts, this.sentence]) part.schedule(head.steps);
    } else {
      this.history.forgetFrom(known ? head.tick : 0);
      this.newest = head.tick - 1;
    }
  }

  paint() {
    const { pictures, height, width, head, kind } = this.waiting;
    this.waiting = null;
    this.stage.show(pictures, height, width);
    const [info] = kind === TICKS ? head.lanes : [];
    if (info) this.sentence.say(`tick ${info.tick} · ${info.words}`, info);
    else this.sentence.say(head.decides ? `before tick ${head.tick}` : `tick ${head.tick} · this server is of an older version, which does not say what was decided`);
    this.meter.frame(performance.now());
    setTimeout(() => { // the picture is on its way to the screen first
      this.charts.drawSoon(this.history.lanes);
      this.meter.show(true);
    });
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
    this.charts.draw(this.history.lanes); // the newest ticks too, if there was no time for them when they came
    const focused = [...$('sessions').querySelectorAll('button')].indexOf(document.activeElement);
    $('sessions').replaceChildren(...(rows.length ? rows : [make('li', 'note', 'none yet: open one with publish=True')]));
    if (focused >= 0) $('sessions').querySelectorAll('button')[focused]?.focus();
    if (server.gone) {
      this.sentence.say(server.gone);
      return;
    }
    const rate = this.before && server.uptime_ms > this.before.uptime_ms
      ? (1000 * (server.ticks - this.before.ticks)) / (server.uptime_ms - this.before.uptime_ms) : null;
    this.before = server;
    const values = { ...server, rate: rate === null ? undefined : rate.toFixed(1), load: server.load === undefined ? undefined : `${Math.round(100 * server.load)} %` };
    $('counts').replaceChildren(...Object.entries(COUNTS).filter(([name]) => values[name] !== undefined).flatMap(([name, label]) => [make('dt', '', label), make('dd', '', String(values[name]))]));
  }
}
