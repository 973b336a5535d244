// A client of `dsa serve` in one file for Node 18 or later: zeromq and @msgpack/msgpack.
//
//     npm install && node dsa_client.js tcp://127.0.0.1:5577
//
// The client is the part above "The example": require("./dsa_client.js").Client.
'use strict';

const { randomBytes } = require('node:crypto');
const fs = require('node:fs');
const { performance } = require('node:perf_hooks');
const { setTimeout: sleep } = require('node:timers/promises');
const { decode, encode } = require('@msgpack/msgpack');
const zmq = require('zeromq');

// --- The client ------------------------------------------------------------------------------------------------------

const MAGIC = Buffer.from('DSA1');
const RING_MAGIC = Buffer.from('DSARING\n\x01\0\0\0');

/** An error of the server, or one of this side where `code` is empty. */
class DsaError extends Error {
  constructor(code, message, retry = false) {
    super(code ? `${code}: ${message}` : message);
    this.name = 'DsaError';
    this.code = code;
    this.retry = retry; // asking later may help
  }
}

/** The server is down, frozen or restarting, or does not know the session any more. `Client.recover` is the answer. */
class LostError extends DsaError {
  constructor(code, message) {
    super(code, message, true);
    this.name = 'LostError';
  }
}

/** The reading side of a ring of frames; PROTOCOL.md has its layout. */
class Ring {
  constructor({ path, token }, tickBytes) {
    try {
      this.file = fs.openSync(path, 'r');
    } catch (error) {
      throw new DsaError('', `shared memory: cannot open the ring (${error.code}); is the server on this machine?`);
    }
    const head = this.#bytes(0, 64);
    const slots = head.readUInt32LE(12);
    const stride = Number(head.readBigUInt64LE(24));
    const good = head.subarray(0, 12).equals(RING_MAGIC) && head.readBigUInt64LE(16) === BigInt(token)
      && Number(head.readBigUInt64LE(32)) >= tickBytes && stride >= tickBytes + 64 && slots >= 2
      && 64 + slots * stride <= fs.fstatSync(this.file).size;
    if (!good) {
      this.close();
      throw new DsaError('', 'shared memory: not the ring that was announced');
    }
    this.slots = slots;
    this.stride = stride;
  }

  /** A copy of the frame; null if it is not, or no longer, in the slot. */
  read(slot, seq, bytes) {
    if (slot >= this.slots) return null;
    const start = 64 + slot * this.stride;
    const label = this.#bytes(start, 16);
    if (!seq || label.readBigUInt64LE(0) !== BigInt(seq) || label.readBigUInt64LE(8) !== BigInt(bytes)) return null;
    const pixels = this.#bytes(start + 64, bytes);
    return this.#bytes(start, 8).readBigUInt64LE(0) === BigInt(seq) ? pixels : null;
  }

  close() {
    fs.closeSync(this.file);
  }

  #bytes(start, count) {
    const target = Buffer.alloc(count);
    fs.readSync(this.file, target, 0, count, start);
    return target;
  }
}

/** One session on a server. All calls but `close` reject with a `LostError` or `DsaError`. One call at a time. */
class Client {
  /** An unanswered request is sent again after this time, ... */
  timeoutMs = 1000;
  /** ... so often in all. Sending again is safe: what has run is answered, not run again. */
  tries = 3;
  /**
   * `{name, height, width, framesPerTick, periodMs, action: {type, n | low, high, ...}}`, once a session is open.
   * framesPerTick: pictures that a tick draws, 1 in most worlds.
   */
  world = null;
  /** Index of the next tick. */
  tick = 0;
  /** The newest picture, `Buffer` of uint8[height][width][3], RGB. */
  pixels = null;
  /** All pictures of the newest tick, oldest first; the last is `pixels`. One that no tick made after open, restore. */
  frames = [];
  /** The newest snapshot, null before the first. */
  lastSnapshot = null;

  #socket;
  #epoch = 0;
  #sid = 0;
  #id = 0;
  #options = null;
  #ring = null;

  /** Connects and says hello. keys: `{server, public, secret}` as Z85 text, for a server with encryption. */
  static async connect(address, keys = null) {
    const client = new Client();
    client.#socket = new zmq.Dealer({
      linger: 0,
      immediate: true, // steps for a server that is down must not pile up and then all run
      reconnectInterval: 50,
      reconnectMaxInterval: 400,
      heartbeatInterval: 200, // a frozen server is noticed
      heartbeatTimeout: 3000, // all tries: or no slow message would arrive
      ...(keys && { curveServerKey: keys.server, curvePublicKey: keys.public, curveSecretKey: keys.secret }),
    });
    client.#socket.connect(address);
    try {
      await client.#hello();
    } catch (error) {
      client.#socket.close();
      throw error;
    }
    return client;
  }

  /**
   * Opens a session; `pixels` is then the picture it starts from. options: `{world, seed, sharedMemory, prompt}`.
   * prompt: the name of one of the world's; undefined for its first, and in worlds that take no text.
   */
  async open(options = {}) {
    this.#options = options;
    await this.#openSession();
  }

  /**
   * One tick: `{tick, frame_tick, status, steps, confidence, ...}` as PROTOCOL.md has it.
   * action: an integer, or an array of numbers, as the world's action space says. budgetUs: -1 for no limit, undefined
   * for a native period. steps: exactly so many denoising steps; undefined to leave it to the world's controller.
   */
  async step(action, { budgetUs, steps } = {}) {
    const reply = await this.#exchange('step', { action, budget_us: budgetUs, steps });
    this.tick = reply.fields.tick + 1;
    this.#takeFrame(reply, this.world.framesPerTick);
    return reply.fields;
  }

  /** The session's state, which is also kept for `recover`. */
  async snapshot() {
    this.#keepSnapshot(await this.#exchange('snapshot'));
    return this.lastSnapshot;
  }

  /** Goes on from a snapshot. */
  async restore(snapshot) {
    const bufs = [{ n: 'snapshot', d: 'u1', s: [snapshot.length], at: 'part', enc: 'raw' }];
    const reply = await this.#exchange('restore', { bufs }, snapshot);
    this.tick = reply.fields.tick;
    this.#takeFrame(reply, 1);
    this.lastSnapshot = snapshot;
  }

  /** Keeps the session's lease alive while it is not stepped. */
  async ping() {
    await this.#exchange('ping');
  }

  /** Says hello, opens and restores until that succeeds. Without a snapshot the session starts anew. */
  async recover(patienceMs) {
    const until = performance.now() + patienceMs;
    for (;;) {
      try {
        await this.#hello();
        await this.#openSession();
        if (this.lastSnapshot) await this.restore(this.lastSnapshot);
        return;
      } catch (error) {
        if (!error.retry || performance.now() >= until) throw error;
      }
      await sleep(100);
    }
  }

  /** Closes the session, if one is open, and the connection. */
  async close() {
    this.tries = 1;
    try {
      if (this.#sid) await this.#exchange('close');
    } catch (error) {
      if (!(error instanceof DsaError)) throw error; // without an answer, the session goes when its lease runs out
    } finally {
      this.#ring?.close();
      this.#socket.close();
    }
  }

  async #hello() {
    const request = { min: 1, max: 1, features: ['shm'], client: 'dsa_client.js' };
    this.#epoch = (await this.#exchange('hello', request)).fields.epoch;
  }

  async #openSession() {
    const { world, seed = 0, sharedMemory = false, prompt } = this.#options;
    const { spec, world: name } = (await this.#exchange('specs', { world })).fields;
    const { height, width, fps, frames_per_tick: framesPerTick } = spec.frame;
    this.world = { name, height, width, framesPerTick, periodMs: 1000 * framesPerTick / fps, action: spec.action_space };

    const key = randomBytes(8).readBigUInt64LE(); // the same key gives the same session: a retry opens no second one
    const frames = sharedMemory ? 'shm' : 'part';
    const reply = await this.#exchange('open', { key, world: name, seed: BigInt(seed), frames, prompt });
    this.#sid = reply.fields.sid;
    this.tick = reply.fields.tick;
    this.#ring?.close();
    this.#ring = null;
    if (sharedMemory) this.#ring = new Ring(reply.fields.ring, framesPerTick * this.#pictureBytes);
    this.#takeFrame(reply, 1);
  }

  get #pictureBytes() {
    return this.world.height * this.world.width * 3;
  }

  /** The parts of a new request. */
  #parts(type, fields = {}, body = null) {
    // 64-bit numbers that are too large for a double come and go as BigInt.
    const request = { ...fields, t: type, id: ++this.#id, epoch: this.#epoch, sid: this.#sid };
    const header = encode(request, { useBigInt64: true, ignoreUndefined: true });
    return body ? [MAGIC, header, body] : [MAGIC, header];
  }

  /** Sends the request until it is answered; returns the answer, `{fields, buffers}`. */
  async #exchange(type, fields = {}, body = null) {
    const parts = this.#parts(type, fields, body);
    const id = this.#id;
    for (let attempt = 0; attempt < this.tries; attempt++) {
      const until = performance.now() + this.timeoutMs;
      try {
        this.#socket.sendTimeout = this.timeoutMs;
        await this.#socket.send(parts);
        while (performance.now() < until) {
          this.#socket.receiveTimeout = Math.max(Math.ceil(until - performance.now()), 1);
          const reply = unpack(await this.#socket.receive());
          if (!reply) continue;
          if (reply.fields.t === 'handover' && reply.fields.sid === this.#sid) this.#keepSnapshot(reply);
          if (reply.fields.id !== id) continue; // an answer to an earlier request, which came late
          if (reply.fields.t === 'error') await this.#refuse(reply);
          return reply;
        }
      } catch (error) {
        if (error.code !== 'EAGAIN') throw error; // not connected, or no answer in time
      }
    }
    throw new LostError('', 'no answer from the server');
  }

  async #refuse(reply) {
    const { code, msg, retry, sid } = reply.fields;
    if (code === 'draining' && sid && sid === this.#sid) {
      this.#keepSnapshot(reply);
      await this.#giveUpSession();
    }
    if (['epoch', 'session', 'draining'].includes(code)) throw new LostError(code, msg);
    throw new DsaError(code, msg, retry);
  }

  /** Says `close` to a server that has handed the session back: it does not stop before it knows that it arrived. */
  async #giveUpSession() {
    const parts = this.#parts('close');
    this.#sid = 0;
    await this.#socket.send(parts).catch(() => {}); // lost, it only ends later
  }

  #keepSnapshot(reply) {
    this.lastSnapshot = find(reply, 'snapshot')?.part ?? this.lastSnapshot;
  }

  #takeFrame(reply, pictures) {
    const found = find(reply, 'frame');
    const bytes = pictures * this.#pictureBytes;
    if (found?.part?.length === bytes) {
      this.#show(found.part);
      return;
    }
    if (!found || found.part || !this.#ring) throw new DsaError('', "a reply without a picture of the world's size");
    const copied = this.#ring.read(found.slot, found.seq, bytes);
    if (!copied) throw new LostError('', 'the frame is no longer in shared memory');
    this.#show(copied);
  }

  #show(bytes) {
    const each = this.#pictureBytes;
    this.frames = Array.from({ length: bytes.length / each }, (_, i) => bytes.subarray(i * each, (i + 1) * each));
    this.pixels = this.frames.at(-1);
  }
}

/** The message in these parts; null if it is none of DSA1. */
function unpack([magic, header, ...buffers]) {
  if (!header || !MAGIC.equals(magic)) return null;
  try {
    return { fields: decode(header, { useBigInt64: true }), buffers };
  } catch {
    return null;
  }
}

/** The description of a buffer, with its `part` if it has one; undefined if there is none. */
function find({ fields, buffers }, name) {
  let next = 0;
  for (const description of fields.bufs ?? []) {
    const part = description.at === 'part' ? buffers[next++] : undefined;
    if (description.n === name) return { ...description, part };
  }
  return undefined;
}

module.exports = { Client, DsaError, LostError };

// --- The example -----------------------------------------------------------------------------------------------------

const USAGE = `\
node dsa_client.js ADDRESS [--world NAME] [--seed N] [--ticks N] [--steps N] [--fast] [--shm] [--picture FILE.ppm]
                   [--prompt NAME]
  --steps    exactly so many denoising steps a tick, so that each run shows the same pictures
  --fast     do not wait for the world's native rate
  --shm      frames by shared memory, on the server's own machine
  --prompt   one of the world's prompts, where it takes a text
Keys of an encrypted connection, as Z85 text, are read from DSA_SERVER_KEY, DSA_PUBLIC_KEY and DSA_SECRET_KEY.`;

/** Whatever moves: the player of this example holds each action for 8 ticks. */
function act({ type, n, low, high }, tick) {
  const turn = Math.floor(tick / 8);
  if (type === 'Discrete') return turn % n;
  if (type === 'MultiBinary') return Array.from({ length: n }, (_, i) => (turn + i) % 2);
  return low.map((bottom, i) => bottom + ((turn + i) % 5) / 4 * (high[i] - bottom));
}

async function play(address, { world, seed, ticks, steps, fast, shm, picture, prompt }) {
  const { DSA_SERVER_KEY, DSA_PUBLIC_KEY, DSA_SECRET_KEY } = process.env;
  const keys = DSA_SERVER_KEY && DSA_PUBLIC_KEY && DSA_SECRET_KEY
    ? { server: DSA_SERVER_KEY, public: DSA_PUBLIC_KEY, secret: DSA_SECRET_KEY }
    : null;
  const client = await Client.connect(address, keys);
  try {
    await client.open({ world, seed, sharedMemory: shm, prompt });
    const trips = [];
    let taken = 0;
    let late = 0;
    let recoveries = 0;
    let due = performance.now();
    while (client.tick < ticks) {
      try {
        const { tick } = client;
        const asked = performance.now();
        // A part of the period is left for the way there and back.
        const budgetUs = Math.round(client.world.periodMs * 800);
        const frame = await client.step(act(client.world.action, tick), { budgetUs, steps });
        trips.push((performance.now() - asked) * 1000);
        if (frame.tick !== tick) throw new DsaError('', `tick ${frame.tick} came for ${tick}`);
        taken += frame.steps;
        late += frame.status !== 'ok';
        if (client.tick % 60 === 0) await client.snapshot();
      } catch (error) {
        if (!(error instanceof LostError)) throw error;
        console.error(`dsa_client: ${error.message}; recovering`);
        await client.recover(30000);
        recoveries++;
      }
      due = Math.max(due + client.world.periodMs, performance.now());
      if (!fast) await sleep(due - performance.now());
    }
    trips.sort((a, b) => a - b);
    const at = (share) => trips[Math.floor(trips.length * share)].toFixed(0);
    console.log(`ticks=${client.tick} mean_steps=${(taken / trips.length).toFixed(3)} late=${late} `
      + `recoveries=${recoveries} round_trip_us_p50=${at(0.5)} round_trip_us_p99=${at(0.99)}`);
    const { width, height } = client.world;
    const { frames } = client; // one below the other
    const head = Buffer.from(`P6\n${width} ${frames.length * height}\n255\n`);
    fs.writeFileSync(picture, Buffer.concat([head, ...frames]));
  } finally {
    await client.close();
  }
}

/** `[address, options]`, or null if they make no sense. */
function read(words) {
  const options = { seed: 7, ticks: 300, fast: false, shm: false, picture: 'frame.ppm' };
  let address = null;
  while (words.length) {
    const word = words.shift();
    const name = word.startsWith('--') ? word.slice(2) : '';
    if (['fast', 'shm'].includes(name)) options[name] = true;
    else if (['world', 'picture', 'prompt'].includes(name) && words.length) options[name] = words.shift();
    else if (['ticks', 'steps'].includes(name) && words.length) options[name] = Number(words.shift());
    else if (name === 'seed' && words.length) options.seed = BigInt(words.shift());
    else if (address === null && !word.startsWith('-')) address = word;
    else return null;
  }
  return address && options.ticks > 0 ? [address, options] : null;
}

async function main() {
  const found = read(process.argv.slice(2));
  if (!found) {
    console.error(USAGE);
    process.exitCode = 2;
    return;
  }
  try {
    await play(...found);
  } catch (error) {
    console.error(`dsa_client: ${error.message}`);
    process.exitCode = 1;
  }
}

if (require.main === module) main();
