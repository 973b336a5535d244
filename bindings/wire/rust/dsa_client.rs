//! A client of `dsa serve` in one file: the crates zmq, serde and rmp-serde.
//!
//!     cargo run --release -- tcp://127.0.0.1:5577
//!
//! The client is the module `dsa`. To use it in a program of yours, copy it into a file `dsa.rs`.

#[allow(dead_code)] // the example does not need all of it
mod dsa {
    use serde::{Deserialize, Serialize};
    use std::collections::hash_map::RandomState;
    use std::collections::BTreeMap;
    use std::fmt;
    use std::fs::File;
    use std::hash::{BuildHasher, Hasher};
    use std::time::{Duration, Instant};

    const MAGIC: &[u8] = b"DSA1";
    const RING_MAGIC: &[u8] = b"DSARING\n\x01\0\0\0";

    #[derive(Debug)]
    pub enum Error {
        /// The server is down, frozen or restarting, or does not know the session any more. `Client::recover` is the
        /// answer.
        Lost(String),
        /// Any other error of the server, or one of this side. `retry`: asking later may help.
        Refused { message: String, retry: bool },
    }

    impl Error {
        pub fn new(message: impl fmt::Display) -> Self {
            Error::Refused {
                message: message.to_string(),
                retry: false,
            }
        }
    }

    impl fmt::Display for Error {
        fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            match self {
                Error::Lost(message) | Error::Refused { message, .. } => {
                    formatter.write_str(message)
                }
            }
        }
    }

    impl std::error::Error for Error {}

    impl From<zmq::Error> for Error {
        fn from(error: zmq::Error) -> Self {
            Error::new(error)
        }
    }

    impl From<std::io::Error> for Error {
        fn from(error: std::io::Error) -> Self {
            Error::new(error)
        }
    }

    pub type Result<T> = std::result::Result<T, Error>;

    /// What an action is: one number for `Discrete`, otherwise as many as there are choices or bounds.
    #[derive(Clone, Debug, Deserialize)]
    #[serde(tag = "type")]
    pub enum ActionSpace {
        Discrete { n: usize },
        MultiBinary { n: usize },
        Box { low: Vec<f64>, high: Vec<f64> },
    }

    #[derive(Clone, Debug)]
    pub struct World {
        pub name: String,
        /// Of a picture, u8[height][width][3], RGB.
        pub height: usize,
        pub width: usize,
        /// Pictures that a tick draws: 1 in most worlds.
        pub frames_per_tick: usize,
        /// Between two ticks at the native rate.
        pub period: Duration,
        pub action: ActionSpace,
    }

    impl World {
        fn picture_bytes(&self) -> usize {
            self.height * self.width * 3
        }
    }

    #[derive(Clone, Debug, Default)]
    pub struct Options {
        /// `None` for the server's first one.
        pub world: Option<String>,
        pub seed: u64,
        /// Frames by shared memory: only on the server's own machine.
        pub shared_memory: bool,
        /// One of the world's; `None` for its first, and in worlds that take no text.
        pub prompt: Option<String>,
    }

    /// Z85 text, for a server with encryption.
    pub struct Keys {
        pub server: String,
        pub own_public: String,
        pub own_secret: String,
    }

    #[derive(Clone, Debug)]
    pub struct Frame {
        pub tick: u64,
        /// The tick whose frame this is: an earlier one if `status` is repeated or skipped.
        pub frame_tick: i64,
        /// ok, late, repeated or skipped
        pub status: String,
        /// Denoising steps that it took.
        pub steps: u32,
        pub confidence: f64,
    }

    /// One session on a server.
    pub struct Client {
        /// An unanswered request is sent again after this time, ...
        pub timeout: Duration,
        /// ... so often in all. Sending again is safe: what has run is answered, not run again.
        pub tries: u32,
        world: Option<World>,
        tick: u64,
        frames: Vec<u8>,
        snapshot: Option<Vec<u8>>,
        socket: zmq::Socket,
        epoch: u64,
        sid: u64,
        id: u64,
        options: Options,
        ring: Option<Ring>,
    }

    impl Client {
        /// Connects and says hello.
        pub fn connect(address: &str, keys: Option<&Keys>) -> Result<Client> {
            let socket = zmq::Context::new().socket(zmq::DEALER)?;
            socket.set_linger(0)?;
            socket.set_immediate(true)?; // steps for a server that is down must not pile up and then all run
            socket.set_reconnect_ivl(50)?;
            socket.set_reconnect_ivl_max(400)?;
            socket.set_heartbeat_ivl(200)?; // a frozen server is noticed
            socket.set_heartbeat_timeout(3000)?; // all tries: or no slow message would arrive
            if let Some(keys) = keys {
                socket.set_curve_serverkey(keys.server.as_bytes())?;
                socket.set_curve_publickey(keys.own_public.as_bytes())?;
                socket.set_curve_secretkey(keys.own_secret.as_bytes())?;
            }
            socket.connect(address)?;
            let mut client = Client {
                timeout: Duration::from_secs(1),
                tries: 3,
                world: None,
                tick: 0,
                frames: Vec::new(),
                snapshot: None,
                socket,
                epoch: 0,
                sid: 0,
                id: 0,
                options: Options::default(),
                ring: None,
            };
            client.hello()?;
            Ok(client)
        }

        /// The world of the session. Panics before `open`.
        pub fn world(&self) -> &World {
            self.world.as_ref().expect("no session is open")
        }

        /// Index of the next tick.
        pub fn tick(&self) -> u64 {
            self.tick
        }

        /// The newest picture, u8[height][width][3].
        pub fn pixels(&self) -> &[u8] {
            let bytes = self.world.as_ref().map_or(0, World::picture_bytes);
            &self.frames[self.frames.len().saturating_sub(bytes)..]
        }

        /// All pictures of the newest tick, oldest first, one after the other; the last is `pixels`. Only one, which no
        /// tick made, after `open` and `restore`.
        pub fn frames(&self) -> &[u8] {
            &self.frames
        }

        /// Opens a session; `pixels` is then the picture that it starts from.
        pub fn open(&mut self, options: Options) -> Result<()> {
            self.options = options;
            self.open_session()
        }

        /// One tick. action: one number for `Discrete`, otherwise one for each component. budget_us: `None` for a
        /// native period, -1 for no limit. steps: exactly so many denoising steps; `None` leaves it to the controller.
        pub fn step(
            &mut self,
            action: &[f64],
            budget_us: Option<i64>,
            steps: Option<u32>,
        ) -> Result<Frame> {
            let whole = || action.iter().map(|&value| Value::Integer(value as i64));
            let action = match self.world().action {
                ActionSpace::Discrete { .. } => whole()
                    .next()
                    .ok_or_else(|| Error::new("action: is empty"))?,
                ActionSpace::MultiBinary { .. } => Value::List(whole().collect()),
                ActionSpace::Box { .. } => {
                    Value::List(action.iter().map(|&value| Value::Real(value)).collect())
                }
            };
            let mut fields = vec![("action", action)];
            fields.extend(budget_us.map(|budget| ("budget_us", Value::Integer(budget))));
            fields.extend(steps.map(|steps| ("steps", Value::Integer(steps.into()))));
            let (reply, buffers) = self.exchange("step", fields, None)?;
            self.tick = reply.tick + 1;
            self.take_frame(&reply, &buffers, self.world().frames_per_tick)?;
            Ok(Frame {
                tick: reply.tick,
                frame_tick: reply.frame_tick,
                status: reply.status,
                steps: reply.steps,
                confidence: reply.confidence,
            })
        }

        /// The session's state, which is also kept for `recover`.
        pub fn snapshot(&mut self) -> Result<&[u8]> {
            let (reply, buffers) = self.exchange("snapshot", vec![], None)?;
            self.keep_snapshot(&reply, &buffers);
            self.snapshot
                .as_deref()
                .ok_or_else(|| Error::new("a reply without a snapshot"))
        }

        /// Goes on from a snapshot.
        pub fn restore(&mut self, snapshot: Vec<u8>) -> Result<()> {
            let description = BTreeMap::from([
                ("n", Value::from("snapshot")),
                ("d", Value::from("u1")),
                (
                    "s",
                    Value::List(vec![Value::Unsigned(snapshot.len() as u64)]),
                ),
                ("at", Value::from("part")),
                ("enc", Value::from("raw")),
            ]);
            let fields = vec![("bufs", Value::List(vec![Value::Map(description)]))];
            let (reply, buffers) = self.exchange("restore", fields, Some(&snapshot))?;
            self.snapshot = Some(snapshot);
            self.tick = reply.tick;
            self.take_frame(&reply, &buffers, 1)
        }

        /// Keeps the session's lease alive while it is not stepped.
        pub fn ping(&mut self) -> Result<()> {
            self.exchange("ping", vec![], None).map(drop)
        }

        /// Says hello, opens and restores until that succeeds. Without a snapshot the session starts anew.
        pub fn recover(&mut self, patience: Duration) -> Result<()> {
            let until = Instant::now() + patience;
            loop {
                match self.begin_again() {
                    Err(Error::Lost(_) | Error::Refused { retry: true, .. })
                        if Instant::now() < until => {}
                    result => return result,
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }

        fn begin_again(&mut self) -> Result<()> {
            self.hello()?;
            self.open_session()?;
            match self.snapshot.clone() {
                Some(snapshot) => self.restore(snapshot),
                None => Ok(()),
            }
        }

        fn hello(&mut self) -> Result<()> {
            let fields = vec![
                ("min", Value::Unsigned(1)),
                ("max", Value::Unsigned(1)),
                ("features", Value::List(vec![Value::from("shm")])),
                ("client", Value::from("dsa_client.rs")),
            ];
            self.epoch = self.exchange("hello", fields, None)?.0.epoch;
            Ok(())
        }

        fn open_session(&mut self) -> Result<()> {
            let asked = self
                .options
                .world
                .iter()
                .map(|name| ("world", Value::from(name.as_str())));
            let (reply, _) = self.exchange("specs", asked.collect(), None)?;
            let spec = reply
                .spec
                .ok_or_else(|| Error::new("a reply without a specification"))?;
            let world = World {
                name: reply.world,
                height: spec.frame.height,
                width: spec.frame.width,
                frames_per_tick: spec.frame.frames_per_tick,
                period: Duration::from_secs_f64(
                    spec.frame.frames_per_tick as f64 / spec.frame.fps,
                ),
                action: spec.action_space,
            };
            let frames = if self.options.shared_memory {
                "shm"
            } else {
                "part"
            };
            let mut fields = vec![
                // The same key gives the same session, so that a retry opens no second one.
                (
                    "key",
                    Value::Unsigned(RandomState::new().build_hasher().finish()),
                ),
                ("world", Value::from(world.name.as_str())),
                ("seed", Value::Unsigned(self.options.seed)),
                ("frames", Value::from(frames)),
            ];
            fields.extend(
                self.options
                    .prompt
                    .iter()
                    .map(|name| ("prompt", Value::from(name.as_str()))),
            );
            let (reply, buffers) = self.exchange("open", fields, None)?;
            self.sid = reply.sid;
            self.tick = reply.tick;
            self.ring = None;
            if self.options.shared_memory {
                let place = reply
                    .ring
                    .as_ref()
                    .ok_or_else(|| Error::new("a reply without a ring"))?;
                let bytes = world.frames_per_tick * world.picture_bytes();
                self.ring = Some(Ring::open(place, bytes)?);
            }
            self.world = Some(world);
            self.take_frame(&reply, &buffers, 1)
        }

        /// The map of a new request.
        fn header(&mut self, kind: &str, fields: Vec<(&'static str, Value)>) -> Result<Vec<u8>> {
            self.id += 1;
            let mut request = BTreeMap::from([
                ("t", Value::from(kind)),
                ("id", Value::Unsigned(self.id)),
                ("epoch", Value::Unsigned(self.epoch)),
                ("sid", Value::Unsigned(self.sid)),
            ]);
            request.extend(fields);
            rmp_serde::to_vec(&request).map_err(Error::new)
        }

        /// Sends the request until it is answered, and returns the answer and its buffers.
        fn exchange(
            &mut self,
            kind: &str,
            fields: Vec<(&'static str, Value)>,
            body: Option<&[u8]>,
        ) -> Result<(Reply, Vec<Vec<u8>>)> {
            let header = self.header(kind, fields)?;
            let parts: Vec<&[u8]> = [MAGIC, &header].into_iter().chain(body).collect();
            for _ in 0..self.tries {
                let until = Instant::now() + self.timeout;
                if !self.ready(zmq::POLLOUT, until)? {
                    continue; // not connected: nothing piles up meanwhile
                }
                self.socket.send_multipart(&parts, zmq::DONTWAIT)?;
                while self.ready(zmq::POLLIN, until)? {
                    let Some((reply, buffers)) = unpack(self.socket.recv_multipart(zmq::DONTWAIT)?)
                    else {
                        continue;
                    };
                    if reply.t == "handover" && reply.sid == self.sid {
                        self.keep_snapshot(&reply, &buffers);
                    }
                    if reply.id != self.id {
                        continue; // an answer to an earlier request, which came late
                    }
                    if reply.t == "error" {
                        return Err(self.refused(reply, &buffers));
                    }
                    return Ok((reply, buffers));
                }
            }
            Err(Error::Lost("no answer from the server".into()))
        }

        /// Waits until the socket can be read or written. False if it cannot be until then.
        fn ready(&self, events: zmq::PollEvents, until: Instant) -> Result<bool> {
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(false);
                }
                match self.socket.poll(events, left.as_millis() as i64 + 1) {
                    Ok(0) | Err(zmq::Error::EINTR) => {}
                    Ok(_) => return Ok(true),
                    Err(error) => return Err(error.into()),
                }
            }
        }

        fn refused(&mut self, reply: Reply, buffers: &[Vec<u8>]) -> Error {
            if reply.code == "draining" && self.sid != 0 && reply.sid == self.sid {
                self.keep_snapshot(&reply, buffers);
                self.give_up_session();
            }
            let message = format!("{}: {}", reply.code, reply.msg);
            match reply.code.as_str() {
                "epoch" | "session" | "draining" => Error::Lost(message),
                _ => Error::Refused {
                    message,
                    retry: reply.retry,
                },
            }
        }

        /// Says `close` to a server that has handed the session back: it does not stop before it knows that this has
        /// arrived.
        fn give_up_session(&mut self) {
            if let Ok(header) = self.header("close", vec![]) {
                let _ = self.socket.send_multipart([MAGIC, &header], zmq::DONTWAIT);
            }
            self.sid = 0;
        }

        fn keep_snapshot(&mut self, reply: &Reply, buffers: &[Vec<u8>]) {
            if let Some((_, Some(part))) = find(reply, buffers, "snapshot") {
                self.snapshot = Some(part.to_vec());
            }
        }

        fn take_frame(
            &mut self,
            reply: &Reply,
            buffers: &[Vec<u8>],
            pictures: usize,
        ) -> Result<()> {
            let bytes = pictures * self.world().picture_bytes();
            match (find(reply, buffers, "frame"), &self.ring) {
                (Some((_, Some(part))), _) if part.len() == bytes => self.frames = part.to_vec(),
                (Some((description, None)), Some(ring)) => {
                    self.frames.resize(bytes, 0);
                    if !ring.read(description.slot, description.seq, &mut self.frames)? {
                        return Err(Error::Lost(
                            "the frame is no longer in shared memory".into(),
                        ));
                    }
                }
                _ => return Err(Error::new("a reply without a picture of the world's size")),
            }
            Ok(())
        }
    }

    impl Drop for Client {
        /// Closes the session, if one is open. Without an answer, it goes when its lease runs out.
        fn drop(&mut self) {
            if self.sid != 0 {
                self.tries = 1;
                let _ = self.exchange("close", vec![], None);
            }
        }
    }

    /// The message in these parts; `None` if it is none of DSA1.
    fn unpack(mut parts: Vec<Vec<u8>>) -> Option<(Reply, Vec<Vec<u8>>)> {
        if parts.len() < 2 || parts[0] != MAGIC {
            return None;
        }
        let buffers = parts.split_off(2);
        rmp_serde::from_slice(&parts[1])
            .ok()
            .map(|reply| (reply, buffers))
    }

    /// The description of a buffer, and its part if it has one.
    fn find<'a>(
        reply: &'a Reply,
        buffers: &'a [Vec<u8>],
        name: &str,
    ) -> Option<(&'a Description, Option<&'a [u8]>)> {
        let mut rest = buffers.iter();
        for description in &reply.bufs {
            let part = if description.at == "part" {
                rest.next().map(Vec::as_slice)
            } else {
                None
            };
            if description.n == name {
                return Some((description, part));
            }
        }
        None
    }

    /// A value of a request's map.
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Value {
        Unsigned(u64),
        Integer(i64),
        Real(f64),
        Text(String),
        List(Vec<Value>),
        Map(BTreeMap<&'static str, Value>),
    }

    impl From<&str> for Value {
        fn from(text: &str) -> Self {
            Value::Text(text.into())
        }
    }

    /// A reply's map: what this client reads of all types. Other keys are ignored.
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Reply {
        t: String,
        id: u64,
        epoch: u64,
        sid: u64,
        tick: u64,
        frame_tick: i64,
        status: String,
        steps: u32,
        confidence: f64,
        world: String,
        spec: Option<Spec>,
        ring: Option<Place>,
        bufs: Vec<Description>,
        code: String,
        msg: String,
        retry: bool,
    }

    #[derive(Deserialize)]
    struct Spec {
        frame: FrameSpec,
        action_space: ActionSpace,
    }

    #[derive(Deserialize)]
    struct FrameSpec {
        height: usize,
        width: usize,
        frames_per_tick: usize,
        fps: f64,
    }

    #[derive(Deserialize)]
    struct Place {
        path: String,
        token: u64,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Description {
        n: String,
        at: String,
        slot: u64,
        seq: u64,
    }

    /// The reading side of a ring of frames; PROTOCOL.md has its layout.
    struct Ring {
        file: File,
        slots: u64,
        stride: u64,
    }

    impl Ring {
        fn open(place: &Place, tick_bytes: usize) -> Result<Ring> {
            let file = File::open(&place.path).map_err(|error| {
                Error::new(format!(
                    "shared memory: {error}; is the server on this machine?"
                ))
            })?;
            let mut head = [0; 40];
            read_at(&file, &mut head, 0)?;
            let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
            let slots = number(8) >> 32;
            let (token, stride, capacity) = (number(16), number(24), number(32));
            let size = slots
                .checked_mul(stride)
                .and_then(|bytes| bytes.checked_add(64));
            let good = head.starts_with(RING_MAGIC)
                && token == place.token
                && capacity >= tick_bytes as u64
                && stride >= capacity.saturating_add(64)
                && slots >= 2
                && size.map_or(false, |size| {
                    size <= file.metadata().map_or(0, |found| found.len())
                });
            if !good {
                return Err(Error::new("shared memory: not the ring that was announced"));
            }
            Ok(Ring {
                file,
                slots,
                stride,
            })
        }

        /// Copies a frame. False if it is not, or no longer, in the slot.
        fn read(&self, slot: u64, seq: u64, target: &mut [u8]) -> Result<bool> {
            if slot >= self.slots || target.len() as u64 + 64 > self.stride {
                return Ok(false);
            }
            let start = 64 + slot * self.stride;
            let mut label = [0; 16];
            read_at(&self.file, &mut label, start)?;
            let expected = [seq.to_le_bytes(), (target.len() as u64).to_le_bytes()].concat();
            if seq == 0 || label[..] != expected[..] {
                return Ok(false);
            }
            read_at(&self.file, target, start + 64)?;
            read_at(&self.file, &mut label, start)?;
            Ok(label[..] == expected[..])
        }
    }

    #[cfg(unix)]
    fn read_at(file: &File, target: &mut [u8], offset: u64) -> Result<()> {
        Ok(std::os::unix::fs::FileExt::read_exact_at(
            file, target, offset,
        )?)
    }

    #[cfg(not(unix))]
    fn read_at(_: &File, _: &mut [u8], _: u64) -> Result<()> {
        Err(Error::new("shared memory is not supported on this system"))
    }
}

// --- The example -----------------------------------------------------------------------------------------------------

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
dsa_client ADDRESS [--world NAME] [--seed N] [--ticks N] [--steps N] [--fast] [--shm] [--picture FILE.ppm]
           [--prompt NAME]
  --steps    exactly so many denoising steps a tick, so that each run shows the same pictures
  --fast     do not wait for the world's native rate
  --shm      frames by shared memory, on the server's own machine
  --prompt   one of the world's prompts, where it takes a text
Keys of an encrypted connection, as Z85 text, are read from DSA_SERVER_KEY, DSA_PUBLIC_KEY and DSA_SECRET_KEY.";

struct Arguments {
    address: String,
    options: dsa::Options,
    ticks: u64,
    steps: Option<u32>,
    fast: bool,
    picture: String,
}

impl Arguments {
    /// `None` if they make no sense.
    fn read(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
        let mut found = Arguments {
            address: String::new(),
            options: dsa::Options {
                seed: 7,
                ..Default::default()
            },
            ticks: 300,
            steps: None,
            fast: false,
            picture: "frame.ppm".into(),
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--fast" => found.fast = true,
                "--shm" => found.options.shared_memory = true,
                "--world" => found.options.world = Some(words.next()?),
                "--prompt" => found.options.prompt = Some(words.next()?),
                "--picture" => found.picture = words.next()?,
                "--seed" => found.options.seed = words.next()?.parse().ok()?,
                "--ticks" => found.ticks = words.next()?.parse().ok()?,
                "--steps" => found.steps = Some(words.next()?.parse().ok()?),
                _ if found.address.is_empty() && !word.starts_with('-') => found.address = word,
                _ => return None,
            }
        }
        (!found.address.is_empty() && found.ticks > 0).then_some(found)
    }
}

fn keys_of_environment() -> Option<dsa::Keys> {
    let read = |name| std::env::var(name).ok();
    Some(dsa::Keys {
        server: read("DSA_SERVER_KEY")?,
        own_public: read("DSA_PUBLIC_KEY")?,
        own_secret: read("DSA_SECRET_KEY")?,
    })
}

/// Whatever moves: the player of this example holds each action for 8 ticks.
fn act(space: &dsa::ActionSpace, tick: u64) -> Vec<f64> {
    let turn = (tick / 8) as usize;
    match space {
        dsa::ActionSpace::Discrete { n } => vec![(turn % n) as f64],
        dsa::ActionSpace::MultiBinary { n } => (0..*n).map(|i| ((turn + i) % 2) as f64).collect(),
        dsa::ActionSpace::Box { low, high } => {
            let bounds = low.iter().zip(high).enumerate();
            bounds
                .map(|(i, (low, high))| low + ((turn + i) % 5) as f64 / 4.0 * (high - low))
                .collect()
        }
    }
}

fn play(arguments: Arguments) -> dsa::Result<()> {
    let mut client = dsa::Client::connect(&arguments.address, keys_of_environment().as_ref())?;
    client.open(arguments.options)?;
    let period = client.world().period;
    let budget_us = (period * 8 / 10).as_micros() as i64; // a part of the period is left for the way there and back
    let mut trips = Vec::new();
    let (mut taken, mut late, mut recoveries) = (0, 0, 0);
    let mut due = Instant::now();
    while client.tick() < arguments.ticks {
        let tick = client.tick();
        let asked = Instant::now();
        let action = act(&client.world().action, tick);
        let mut result = client
            .step(&action, Some(budget_us), arguments.steps)
            .map(Some);
        if let Ok(Some(frame)) = &result {
            trips.push(asked.elapsed().as_micros());
            if frame.tick != tick {
                return Err(dsa::Error::new(format!(
                    "tick {} came for {tick}",
                    frame.tick
                )));
            }
            taken += frame.steps;
            late += u32::from(frame.status != "ok");
            if client.tick() % 60 == 0 {
                result = client.snapshot().map(|_| None);
            }
        }
        match result {
            Ok(_) => {}
            Err(dsa::Error::Lost(message)) => {
                eprintln!("dsa_client: {message}; recovering");
                client.recover(Duration::from_secs(30))?;
                recoveries += 1;
            }
            Err(error) => return Err(error),
        }
        due = Instant::now().max(due + period);
        if !arguments.fast {
            std::thread::sleep(due - Instant::now());
        }
    }
    trips.sort();
    println!(
        "ticks={} mean_steps={:.3} late={late} recoveries={recoveries} round_trip_us_p50={} round_trip_us_p99={}",
        client.tick(),
        f64::from(taken) / trips.len() as f64,
        trips[trips.len() / 2],
        trips[trips.len() * 99 / 100]
    );
    let mut file = std::fs::File::create(&arguments.picture)?;
    let width = client.world().width;
    let height = client.frames().len() / (width * 3); // of all pictures, one below the other
    write!(file, "P6\n{width} {height}\n255\n")?;
    file.write_all(client.frames())?;
    Ok(())
}

fn main() -> ExitCode {
    let Some(arguments) = Arguments::read(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match play(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dsa_client: {error}");
            ExitCode::FAILURE
        }
    }
}
