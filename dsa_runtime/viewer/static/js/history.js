// History: the newest ticks of each lane, for the charts, and of the newest of these the pictures, for looking back.

export const KEPT = 900; // ticks
const PICTURES_BYTES = 96e6;

export class History {
  constructor(most, pictureBytes) {
    this.most = most;
    this.pictured = Math.min(most, Math.floor(PICTURES_BYTES / pictureBytes));
    this.lanes = [new Map(), new Map()]; // tick -> {info, picture or null}; insertion order is tick order
  }

  add(lane, info, picture) {
    const ticks = this.lanes[lane];
    ticks.delete(info.tick);
    ticks.set(info.tick, { info, picture });
    if (ticks.size > this.most) ticks.delete(ticks.keys().next().value);
    const old = ticks.get(info.tick - this.pictured);
    if (old) old.picture = null;
  }

  // What was undone, and what another seed made.
  forgetFrom(tick) {
    for (const ticks of this.lanes) {
      for (const known of [...ticks.keys()]) if (known >= tick) ticks.delete(known);
    }
  }

  forgetLane(lane) {
    this.lanes[lane] = new Map();
  }

  promote() {
    this.lanes = [this.lanes[1], new Map()];
  }

  at(lane, tick) {
    return this.lanes[lane].get(tick);
  }
}
