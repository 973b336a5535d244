// Starts what the server says this page is: one that plays, or one that looks on.

import { Link, FILE } from './link.js';
import { PlayPage } from './play.js';
import { WatchPage } from './watch.js';

const veil = document.getElementById('veil');
let page = null;
let lost = null;

function text(message) {
  if (message.is !== 'hello') {
    page?.text(message);
    return;
  }
  if (page && JSON.stringify(page.hello) !== JSON.stringify(message)) location.reload(); // another world by now
  page ??= message.mode === 'play' ? new PlayPage(message, link) : new WatchPage(message, link);
  page.found();
  // When everything has found its size.
  requestAnimationFrame(() => requestAnimationFrame(() => { document.body.dataset.ready = ''; }));
  veil.hidden = true;
}

function binary(message) {
  if (message.kind === FILE) save(message.head.name, message.rest);
  else page?.binary(message);
}

function save(name, content) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], { type: 'application/octet-stream' }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  page?.saved(name);
}

const link = new Link({
  text,
  binary,
  found: () => clearTimeout(lost),
  lost: (why) => {
    clearTimeout(lost);
    lost = setTimeout(() => {
      veil.textContent = why || 'the server does not answer; trying again';
      veil.hidden = false;
    }, 250);
  },
});

document.addEventListener('visibilitychange', () => link.send({ do: document.hidden ? 'away' : 'here' }));
