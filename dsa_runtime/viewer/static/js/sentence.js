// Sentence: the decision of a tick in words, and before it a pip for each step of the schedule.

import { stepColour } from './charts.js';
import { make } from './pads.js';

const MOST_PIPS = 10;
const $ = (id) => document.getElementById(id);

export class Sentence {
  constructor(steps) {
    this.schedule(steps);
  }

  schedule(steps) {
    this.steps = steps;
    $('pips').replaceChildren(...Array.from({ length: steps <= MOST_PIPS ? steps : 0 }, () => make('i', '')));
  }

  // info: of the tick that is spoken of, if it is one
  say(text, info = null) {
    [...$('pips').children].forEach((pip, index) => {
      pip.style.background = info && index < info.steps ? stepColour(index + 1, this.steps) : '';
    });
    $('words').classList.toggle('missed', Boolean(info) && info.status !== 'ok');
    $('sentence').textContent = text;
  }
}
