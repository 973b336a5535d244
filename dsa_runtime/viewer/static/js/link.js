// Link: the WebSocket to the server, which comes back by itself. PAGE.md says what goes over it.

const MAGIC = 0x56415344; // "DSAV"
const HEADER_BYTES = 16;
export const TICKS = 1, PICTURES = 2, FILE = 3;
const TAKEN_OVER = 4001, FULL = 4003;
const FIRST_WAIT_MS = 400, LONGEST_WAIT_MS = 5000;

export class Link {
  // hear: {text(message), binary(message), lost(why), found()}
  constructor(hear) {
    this.hear = hear;
    this.wait = FIRST_WAIT_MS;
    this.socket = null;
    this.open();
  }

  open() {
    const token = new URLSearchParams(location.search).get('token');
    const query = new URLSearchParams({ tab: tabName(), ...(token ? { token } : {}) });
    const socket = new WebSocket(`ws://${location.host}/socket?${query}`);
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => {
      this.wait = FIRST_WAIT_MS;
      this.socket = socket;
      this.hear.found();
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === 'string') {
        this.hear.text(JSON.parse(data));
        return;
      }
      const message = unpack(data);
      if (message.kind !== FILE) this.send({ do: 'seen' }); // only then the server sends the next ones
      this.hear.binary(message);
    };
    socket.onclose = ({ code, reason }) => {
      this.socket = null;
      if (code === TAKEN_OVER) newTabName(); // the tab was duplicated: the copy has the session, this one gets its own
      this.hear.lost(code === FULL ? reason : code === TAKEN_OVER ? 'another tab has taken this session over' : '');
      setTimeout(() => this.open(), this.wait);
      this.wait = Math.min(this.wait * 1.7, LONGEST_WAIT_MS);
    };
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}

export function unpack(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0, true) !== MAGIC || view.getUint8(4) !== 1) throw new Error('not a message of this version');
  const lanes = view.getUint16(6, true), length = view.getUint32(8, true);
  const height = view.getUint16(12, true), width = view.getUint16(14, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, HEADER_BYTES, length)));
  const body = HEADER_BYTES + length, size = height * width * 3, count = head.pictures ?? 1;
  const at = (lane, index) => new Uint8Array(buffer, body + (lane * count + index) * size, size);
  // All pictures of a tick, oldest first, each one of every lane.
  const reel = Array.from({ length: count }, (_, index) => Array.from({ length: lanes }, (_, lane) => at(lane, index)));
  return { kind: view.getUint8(5), head, height, width, reel, pictures: reel.at(-1), rest: new Uint8Array(buffer, body) };
}

function tabName() {
  return sessionStorage.getItem('dsa-tab') ?? newTabName();
}

function newTabName() {
  const drawn = crypto.getRandomValues(new Uint8Array(12));
  const name = Array.from(drawn, (byte) => byte.toString(16).padStart(2, '0')).join('');
  sessionStorage.setItem('dsa-tab', name);
  return name;
}
