// A client of `dsa serve` in one file of C# 7: libzmq by P/Invoke, its own msgpack, nothing from NuGet.
//
//     mcs -optimize DsaClient.cs && mono DsaClient.exe tcp://127.0.0.1:5577
//
// The client is namespace Dsa. To use it in a program of yours, for Unity or Godot say, copy it and leave out Example.

using System;
using System.Collections;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Threading;

namespace Dsa
{
    // An error of the server, or one of this side where Code is empty.
    public class DsaException : Exception
    {
        public DsaException(string code, string message, bool retry = false)
            : base(code.Length == 0 ? message : code + ": " + message)
        {
            Code = code;
            Retry = retry;
        }

        public string Code { get; }
        public bool Retry { get; } // asking later may help
    }

    // The server is down, frozen or restarting, or does not know the session any more. Client.Recover is the answer.
    public sealed class LostException : DsaException
    {
        public LostException(string code, string message) : base(code, message, true) { }
    }

    public enum ActionType { Discrete, MultiBinary, Box }

    public sealed class World
    {
        public string Name;
        public int Height, Width; // of a picture, byte[Height * Width * 3], RGB, top row first
        public int FramesPerTick; // pictures that a tick draws: 1 in most worlds
        public TimeSpan Period;   // between two ticks at the native rate
        public ActionType Action;
        public int Count;          // choices of a Discrete, otherwise values in an action
        public double[] Low, High; // bounds of a Box's values, null otherwise

        public int PictureBytes { get { return Height * Width * 3; } }
    }

    public sealed class Options
    {
        public string World; // null for the server's first one
        public ulong Seed;
        public bool SharedMemory; // frames by shared memory: only on the server's own machine
        public string Prompt;     // one of the world's; null for its first, and in worlds that take no text
    }

    // Z85 text, for a server with encryption.
    public sealed class Keys
    {
        public string Server, Public, Secret;
    }

    public sealed class Frame
    {
        public ulong Tick;
        public long FrameTick; // the tick whose frame this is: an earlier one if Status is repeated or skipped
        public string Status;  // ok, late, repeated or skipped
        public int Steps;      // denoising steps that it took
        public double Confidence;
    }

    // One session on a server. All calls throw LostException or DsaException. For one thread at a time.
    public sealed class Client : IDisposable
    {
        public int TimeoutMs = 1000; // an unanswered request is sent again after this time,
        public int Tries = 3;        // so often in all. Sending again is safe: what has run is answered, not run again

        public World World { get; private set; }
        public ulong Tick { get; private set; }       // index of the next tick
        public byte[] Pixels { get; private set; }    // the newest picture
        // All pictures of the newest tick, oldest first; the last is Pixels. One that no tick made after Open, Restore.
        public byte[][] Frames { get; private set; }
        public byte[] LastSnapshot { get; private set; } // null before the first

        // Connects and says hello.
        public Client(string address, Keys keys = null)
        {
            context = Zmq.zmq_ctx_new();
            socket = Zmq.zmq_socket(context, Zmq.Dealer);
            Set(Zmq.Linger, 0);
            Set(Zmq.Immediate, 1); // steps for a server that is down must not pile up and then all run
            Set(Zmq.ReconnectIvl, 50);
            Set(Zmq.ReconnectIvlMax, 400);
            Set(Zmq.HeartbeatIvl, 200); // a frozen server is noticed
            Set(Zmq.HeartbeatTimeout, 3000); // all tries: or no slow message would arrive
            try
            {
                if (keys != null)
                {
                    Set(Zmq.CurveServerKey, keys.Server);
                    Set(Zmq.CurvePublicKey, keys.Public);
                    Set(Zmq.CurveSecretKey, keys.Secret);
                }
                Zmq.Check(Zmq.zmq_connect(socket, Encoding.UTF8.GetBytes(address + "\0")), address);
                Hello();
            }
            catch
            {
                Disconnect();
                throw;
            }
        }

        // Opens a session; Pixels is then the picture that it starts from.
        public void Open(Options options)
        {
            this.options = options;
            OpenSession();
        }

        // One tick. action: one value for a Discrete, otherwise World.Count of them. budgetUs: 0 for a native period,
        // -1 for none. steps: exactly so many denoising steps; 0 to leave it to the world's controller.
        public Frame Step(double[] action, long budgetUs = 0, int steps = 0)
        {
            var request = new Dictionary<string, object> { { "action", Encode(action) } };
            if (budgetUs != 0) request["budget_us"] = budgetUs;
            if (steps != 0) request["steps"] = (long)steps;
            var reply = Exchange("step", request);
            var frame = new Frame
            {
                Tick = reply.Unsigned("tick"),
                FrameTick = reply.Integer("frame_tick"),
                Status = reply.Text("status"),
                Steps = (int)reply.Integer("steps"),
                Confidence = reply.Real("confidence"),
            };
            Tick = frame.Tick + 1;
            TakeFrame(reply, World.FramesPerTick);
            return frame;
        }

        // The session's state, which is also kept for Recover.
        public byte[] Snapshot()
        {
            KeepSnapshot(Exchange("snapshot", new Dictionary<string, object>()));
            return LastSnapshot;
        }

        // Goes on from a snapshot.
        public void Restore(byte[] snapshot)
        {
            var description = new Dictionary<string, object>
            {
                { "n", "snapshot" }, { "d", "u1" }, { "s", new object[] { (long)snapshot.Length } },
                { "at", "part" }, { "enc", "raw" },
            };
            var request = new Dictionary<string, object> { { "bufs", new object[] { description } } };
            var reply = Exchange("restore", request, snapshot);
            Tick = reply.Unsigned("tick");
            TakeFrame(reply, 1);
            LastSnapshot = snapshot;
        }

        // Keeps the session's lease alive while it is not stepped.
        public void Ping()
        {
            Exchange("ping", new Dictionary<string, object>());
        }

        // Says hello, opens and restores until that succeeds. Without a snapshot the session starts anew.
        public void Recover(int patienceMs)
        {
            var clock = Stopwatch.StartNew();
            for (;;)
            {
                try
                {
                    Hello();
                    OpenSession();
                    if (LastSnapshot != null) Restore(LastSnapshot);
                    return;
                }
                catch (DsaException error)
                {
                    if (!error.Retry || clock.ElapsedMilliseconds >= patienceMs) throw;
                }
                Thread.Sleep(100);
            }
        }

        // Closes the session, if one is open, and the connection.
        public void Dispose()
        {
            if (socket == IntPtr.Zero) return;
            try
            {
                Tries = 1;
                if (sid != 0) Exchange("close", new Dictionary<string, object>());
            }
            catch (DsaException)
            {
                // Without an answer, the session goes when its lease runs out.
            }
            Disconnect();
        }

        private IntPtr context, socket;
        private ulong epoch, sid, id;
        private Options options;
        private Ring ring;

        private void Disconnect()
        {
            if (ring != null) ring.Dispose();
            Zmq.zmq_close(socket);
            Zmq.zmq_ctx_term(context);
            socket = IntPtr.Zero;
        }

        private void Set(int option, int value)
        {
            Zmq.Check(Zmq.zmq_setsockopt(socket, option, ref value, (IntPtr)sizeof(int)), "a socket option");
        }

        private void Set(int option, string key)
        {
            var text = Encoding.ASCII.GetBytes(key + "\0");
            Zmq.Check(Zmq.zmq_setsockopt(socket, option, text, (IntPtr)text.Length), "a key");
        }

        private void Hello()
        {
            epoch = Exchange("hello", new Dictionary<string, object>
            {
                { "min", 1L }, { "max", 1L }, { "features", new object[] { "shm" } }, { "client", "DsaClient.cs" },
            }).Unsigned("epoch");
        }

        private void OpenSession()
        {
            var asked = new Dictionary<string, object>();
            if (options.World != null) asked["world"] = options.World;
            World = ReadWorld(Exchange("specs", asked));

            var random = new byte[8]; // the same key gives the same session, so that a retry opens no second one
            using (var generator = RandomNumberGenerator.Create()) generator.GetBytes(random);
            var request = new Dictionary<string, object>
            {
                { "key", BitConverter.ToUInt64(random, 0) }, { "world", World.Name }, { "seed", options.Seed },
                { "frames", options.SharedMemory ? "shm" : "part" },
            };
            if (options.Prompt != null) request["prompt"] = options.Prompt;
            var reply = Exchange("open", request);
            sid = reply.Unsigned("sid");
            Tick = reply.Unsigned("tick");
            if (ring != null) ring.Dispose();
            var tickBytes = World.FramesPerTick * World.PictureBytes;
            ring = options.SharedMemory ? new Ring(reply.Map("ring"), tickBytes) : null;
            TakeFrame(reply, 1);
        }

        private static World ReadWorld(Fields reply)
        {
            Fields spec = reply.Map("spec"), frame = spec.Map("frame"), space = spec.Map("action_space");
            var world = new World
            {
                Name = reply.Text("world"),
                Height = (int)frame.Integer("height"),
                Width = (int)frame.Integer("width"),
                FramesPerTick = (int)frame.Integer("frames_per_tick"),
            };
            world.Period =
                TimeSpan.FromTicks((long)(TimeSpan.TicksPerSecond * world.FramesPerTick / frame.Real("fps")));
            switch (space.Text("type"))
            {
                case "Discrete": world.Action = ActionType.Discrete; break;
                case "MultiBinary": world.Action = ActionType.MultiBinary; break;
                default:
                    world.Action = ActionType.Box;
                    world.Low = space.Items("low").Select(Convert.ToDouble).ToArray();
                    world.High = space.Items("high").Select(Convert.ToDouble).ToArray();
                    break;
            }
            world.Count = world.Action == ActionType.Box ? world.Low.Length : (int)space.Integer("n");
            return world;
        }

        private object Encode(double[] action)
        {
            switch (World.Action)
            {
                case ActionType.Discrete: return (long)action[0];
                case ActionType.MultiBinary: return action.Select(value => (object)(long)value).ToArray();
                default: return action.Select(value => (object)value).ToArray();
            }
        }

        // The map of a new request.
        private byte[] Header(string type, Dictionary<string, object> fields)
        {
            fields["t"] = type;
            fields["id"] = ++id;
            fields["epoch"] = epoch;
            fields["sid"] = sid;
            return MsgPack.Write(fields);
        }

        // Sends the request until it is answered, and returns the answer.
        private Fields Exchange(string type, Dictionary<string, object> fields, byte[] body = null)
        {
            var header = Header(type, fields);
            for (var attempt = 0; attempt < Tries; attempt++)
            {
                var clock = Stopwatch.StartNew();
                bool sent;
                do sent = Send(Magic, true, (int)(TimeoutMs - clock.ElapsedMilliseconds));
                while (!sent && clock.ElapsedMilliseconds < TimeoutMs); // not connected, or a signal came
                if (!sent) continue;
                Send(header, body != null, 0);
                if (body != null) Send(body, false, 0);
                while (clock.ElapsedMilliseconds < TimeoutMs)
                {
                    var reply = Receive((int)(TimeoutMs - clock.ElapsedMilliseconds));
                    if (reply == null) continue;
                    var kind = reply.Text("t");
                    if (kind == "handover" && reply.Unsigned("sid") == sid) KeepSnapshot(reply);
                    if (reply.Unsigned("id") != id) continue; // an answer to an earlier request, which came late
                    if (kind == "error") Refuse(reply);
                    return reply;
                }
            }
            throw new LostException("", "no answer from the server");
        }

        private void Refuse(Fields reply)
        {
            string code = reply.Text("code"), message = reply.Text("msg");
            if (code == "draining" && sid != 0 && reply.Has("sid") && reply.Unsigned("sid") == sid)
            {
                KeepSnapshot(reply);
                GiveUpSession();
            }
            if (code == "epoch" || code == "session" || code == "draining") throw new LostException(code, message);
            throw new DsaException(code, message, reply.Truth("retry"));
        }

        // Says `close` to a server that has handed the session back: it does not stop before it knows that this has
        // arrived.
        private void GiveUpSession()
        {
            var header = Header("close", new Dictionary<string, object>());
            if (Send(Magic, true, 0)) Send(header, false, 0);
            sid = 0;
        }

        private bool Send(byte[] part, bool more, int waitMs)
        {
            if (waitMs > 0) Set(Zmq.SendTimeout, waitMs);
            var flags = (more ? Zmq.SendMore : 0) | (waitMs > 0 ? 0 : Zmq.DontWait);
            return Zmq.zmq_send(socket, part, (IntPtr)part.Length, flags) >= 0;
        }

        // One message; null if none comes in time or it is none of DSA1.
        private Fields Receive(int waitMs)
        {
            Set(Zmq.ReceiveTimeout, Math.Max(waitMs, 1));
            var parts = new List<byte[]>();
            var message = Marshal.AllocHGlobal(Zmq.MessageBytes);
            try
            {
                for (var more = true; more;)
                {
                    Zmq.zmq_msg_init(message);
                    if (Zmq.zmq_msg_recv(message, socket, 0) < 0) return null;
                    var part = new byte[(int)Zmq.zmq_msg_size(message)];
                    Marshal.Copy(Zmq.zmq_msg_data(message), part, 0, part.Length);
                    parts.Add(part);
                    more = Zmq.zmq_msg_more(message) != 0;
                    Zmq.zmq_msg_close(message);
                }
                if (parts.Count < 2 || !parts[0].SequenceEqual(Magic)) return null;
                return Fields.Of(MsgPack.Read(parts[1]), parts.Skip(2).ToList());
            }
            catch (InvalidDataException)
            {
                return null;
            }
            finally
            {
                Marshal.FreeHGlobal(message);
            }
        }

        private void KeepSnapshot(Fields reply)
        {
            byte[] part;
            if (reply.Buffer("snapshot", out part) != null && part != null) LastSnapshot = part;
        }

        private void TakeFrame(Fields reply, int pictures)
        {
            byte[] part;
            var bytes = pictures * World.PictureBytes;
            var description = reply.Buffer("frame", out part);
            if (part != null && part.Length == bytes)
            {
                Show(part, pictures);
                return;
            }
            if (description == null || part != null || ring == null)
                throw new DsaException("", "a reply without a picture of the world's size");
            var copied = ring.Read(description.Unsigned("slot"), description.Unsigned("seq"), bytes);
            if (copied == null) throw new LostException("", "the frame is no longer in shared memory");
            Show(copied, pictures);
        }

        private void Show(byte[] bytes, int pictures)
        {
            Frames = new byte[pictures][];
            for (var i = 0; i < pictures; i++)
            {
                Frames[i] = pictures == 1 ? bytes : new byte[World.PictureBytes];
                if (pictures > 1) Buffer.BlockCopy(bytes, i * World.PictureBytes, Frames[i], 0, World.PictureBytes);
            }
            Pixels = Frames[pictures - 1];
        }

        private static readonly byte[] Magic = Encoding.ASCII.GetBytes("DSA1");
    }

    // A map of a message. Throws DsaException for a field that is missing or ill-typed.
    internal sealed class Fields
    {
        private readonly Dictionary<string, object> map;
        private readonly List<byte[]> buffers;

        private Fields(Dictionary<string, object> map, List<byte[]> buffers)
        {
            this.map = map;
            this.buffers = buffers;
        }

        public static Fields Of(object value, List<byte[]> buffers)
        {
            var map = value as Dictionary<string, object>;
            if (map == null) throw new InvalidDataException("expected a map");
            return new Fields(map, buffers);
        }

        public bool Has(string name) { return map.ContainsKey(name); }

        public ulong Unsigned(string name)
        {
            var value = map.ContainsKey(name) ? map[name] : null;
            if (value is ulong) return (ulong)value;
            if (value is long && (long)value >= 0) return (ulong)(long)value;
            throw Wrong(name);
        }

        public long Integer(string name) { return Get<long>(name); }
        public string Text(string name) { return Get<string>(name); }
        public List<object> Items(string name) { return Get<List<object>>(name); }
        public Fields Map(string name) { return new Fields(Get<Dictionary<string, object>>(name), null); }
        public bool Truth(string name) { return Get<bool>(name); }

        public double Real(string name)
        {
            var value = map.ContainsKey(name) ? map[name] : null;
            if (value is double || value is long || value is ulong) return Convert.ToDouble(value);
            throw Wrong(name);
        }

        // The description of a buffer, null if there is none; `part` is null if it is in shared memory.
        public Fields Buffer(string name, out byte[] part)
        {
            var next = 0;
            part = null;
            foreach (var entry in map.ContainsKey("bufs") ? Items("bufs") : new List<object>())
            {
                var description = Of(entry, null);
                var here = description.Text("at") == "part";
                if (description.Text("n") == name)
                {
                    if (here && next < buffers.Count) part = buffers[next];
                    return description;
                }
                if (here) next++;
            }
            return null;
        }

        private T Get<T>(string name)
        {
            object value;
            if (map.TryGetValue(name, out value) && value is T) return (T)value;
            throw Wrong(name);
        }

        private static DsaException Wrong(string name)
        {
            return new DsaException("", "the server's reply lacks the field " + name + ", or it is ill-typed");
        }
    }

    // The reading side of a ring of frames, on Linux and macOS; PROTOCOL.md has its layout. The file is mapped by hand:
    // opened as a FileStream it would be locked, and the server holds that lock.
    internal sealed class Ring : IDisposable
    {
        private IntPtr start;
        private readonly long size, slots, stride;

        public Ring(Fields ring, int tickBytes)
        {
            var file = open(Encoding.UTF8.GetBytes(ring.Text("path") + "\0"), 0);
            size = file < 0 ? -1 : lseek(file, IntPtr.Zero, 2).ToInt64();
            start = size < 64 ? Failed : mmap(IntPtr.Zero, (IntPtr)size, 1, 1, file, IntPtr.Zero);
            if (file >= 0) close(file);
            if (start == Failed)
                throw new DsaException("", "shared memory: cannot map the ring; is the server on this machine?");
            var magic = new byte[12];
            Marshal.Copy(start, magic, 0, magic.Length);
            slots = Marshal.ReadInt32(start, 12);
            stride = Marshal.ReadInt64(start, 24);
            var capacity = Marshal.ReadInt64(start, 32);
            var good = Encoding.ASCII.GetString(magic) == "DSARING\n\u0001\0\0\0" && slots >= 2 &&
                (ulong)Marshal.ReadInt64(start, 16) == ring.Unsigned("token") && capacity >= tickBytes &&
                stride % 64 == 0 && stride - 64 >= capacity && stride <= (size - 64) / slots;
            if (good) return;
            Dispose();
            throw new DsaException("", "shared memory: not the ring that was announced");
        }

        // A copy of the frame; null if it is not, or no longer, in the slot.
        public byte[] Read(ulong slot, ulong seq, int bytes)
        {
            if (slot >= (ulong)slots || bytes > stride - 64) return null;
            var place = new IntPtr(start.ToInt64() + 64 + (long)slot * stride);
            if (seq == 0 || (ulong)Marshal.ReadInt64(place) != seq || Marshal.ReadInt64(place, 8) != bytes) return null;
            var pixels = new byte[bytes];
            Thread.MemoryBarrier();
            Marshal.Copy(new IntPtr(place.ToInt64() + 64), pixels, 0, bytes);
            Thread.MemoryBarrier();
            return (ulong)Marshal.ReadInt64(place) == seq ? pixels : null;
        }

        public void Dispose()
        {
            if (start != Failed) munmap(start, (IntPtr)size);
            start = Failed;
        }

        private static readonly IntPtr Failed = new IntPtr(-1);
        [DllImport("libc")] private static extern int open(byte[] path, int flags);
        [DllImport("libc")] private static extern int close(int file);
        [DllImport("libc")] private static extern IntPtr lseek(int file, IntPtr offset, int whence);
        [DllImport("libc")]
        private static extern IntPtr mmap(IntPtr at, IntPtr size, int protection, int flags, int file, IntPtr offset);
        [DllImport("libc")] private static extern int munmap(IntPtr start, IntPtr size);
    }

    // As much of msgpack as DSA1 uses. Integers are long, or ulong above its range; no extension types.
    internal static class MsgPack
    {
        public static byte[] Write(object value)
        {
            var target = new MemoryStream();
            Put(target, value);
            return target.ToArray();
        }

        // Throws InvalidDataException.
        public static object Read(byte[] source)
        {
            var position = 0;
            return Take(source, ref position, 0);
        }

        private static void Put(MemoryStream target, object value)
        {
            if (value == null) target.WriteByte(0xc0);
            else if (value is bool) target.WriteByte((byte)((bool)value ? 0xc3 : 0xc2));
            else if (value is ulong) PutNumber(target, 0xcf, (ulong)value, 8);
            else if (value is long) PutNumber(target, 0xd3, (ulong)(long)value, 8);
            else if (value is double) PutNumber(target, 0xcb, (ulong)BitConverter.DoubleToInt64Bits((double)value), 8);
            else if (value is string)
            {
                var text = Encoding.UTF8.GetBytes((string)value);
                PutNumber(target, 0xdb, (ulong)text.Length, 4);
                target.Write(text, 0, text.Length);
            }
            else if (value is IDictionary<string, object>)
            {
                var map = (IDictionary<string, object>)value;
                PutNumber(target, 0xdf, (ulong)map.Count, 4);
                foreach (var pair in map)
                {
                    Put(target, pair.Key);
                    Put(target, pair.Value);
                }
            }
            else if (value is IList)
            {
                var items = (IList)value;
                PutNumber(target, 0xdd, (ulong)items.Count, 4);
                foreach (var item in items) Put(target, item);
            }
            else throw new ArgumentException("no such type in a message: " + value.GetType());
        }

        private static void PutNumber(MemoryStream target, byte type, ulong number, int bytes)
        {
            target.WriteByte(type);
            for (var shift = 8 * (bytes - 1); shift >= 0; shift -= 8) target.WriteByte((byte)(number >> shift));
        }

        private static object Take(byte[] source, ref int position, int depth)
        {
            if (depth > 32) throw new InvalidDataException("too deep");
            var type = (byte)TakeNumber(source, ref position, 1);
            if (type < 0x80) return (long)type;
            if (type >= 0xe0) return (long)(sbyte)type;
            if (type < 0x90) return TakeMap(source, ref position, type & 0x0f, depth);
            if (type < 0xa0) return TakeItems(source, ref position, type & 0x0f, depth);
            if (type < 0xc0) return Encoding.UTF8.GetString(TakeBytes(source, ref position, type & 0x1f));
            switch (type)
            {
                case 0xc0: return null;
                case 0xc2: return false;
                case 0xc3: return true;
                case 0xc4: case 0xc5: case 0xc6:
                    return TakeBytes(source, ref position, Size(source, ref position, type - 0xc4));
                case 0xca:
                    var single = BitConverter.GetBytes((uint)TakeNumber(source, ref position, 4));
                    return (double)BitConverter.ToSingle(single, 0);
                case 0xcb: return BitConverter.Int64BitsToDouble((long)TakeNumber(source, ref position, 8));
                case 0xcc: case 0xcd: case 0xce: return (long)TakeNumber(source, ref position, 1 << (type - 0xcc));
                case 0xcf:
                    var number = TakeNumber(source, ref position, 8);
                    return number <= long.MaxValue ? (object)(long)number : number;
                case 0xd0: return (long)(sbyte)TakeNumber(source, ref position, 1);
                case 0xd1: return (long)(short)TakeNumber(source, ref position, 2);
                case 0xd2: return (long)(int)TakeNumber(source, ref position, 4);
                case 0xd3: return (long)TakeNumber(source, ref position, 8);
                case 0xd9: case 0xda: case 0xdb:
                    var text = TakeBytes(source, ref position, Size(source, ref position, type - 0xd9));
                    return Encoding.UTF8.GetString(text);
                case 0xdc: case 0xdd:
                    return TakeItems(source, ref position, Size(source, ref position, type - 0xdc + 1), depth);
                case 0xde: case 0xdf:
                    return TakeMap(source, ref position, Size(source, ref position, type - 0xde + 1), depth);
                default: throw new InvalidDataException("no such type in a message: " + type);
            }
        }

        private static int Size(byte[] source, ref int position, int power)
        {
            var size = TakeNumber(source, ref position, 1 << power);
            if (size > (ulong)source.Length) throw new InvalidDataException("cut short");
            return (int)size;
        }

        private static Dictionary<string, object> TakeMap(byte[] source, ref int position, int count, int depth)
        {
            var map = new Dictionary<string, object>();
            for (var i = 0; i < count; i++)
            {
                var key = Take(source, ref position, depth + 1) as string;
                if (key == null) throw new InvalidDataException("a key that is no string");
                map[key] = Take(source, ref position, depth + 1);
            }
            return map;
        }

        private static List<object> TakeItems(byte[] source, ref int position, int count, int depth)
        {
            var items = new List<object>();
            for (var i = 0; i < count; i++) items.Add(Take(source, ref position, depth + 1));
            return items;
        }

        private static byte[] TakeBytes(byte[] source, ref int position, int count)
        {
            if (count > source.Length - position) throw new InvalidDataException("cut short");
            var bytes = new byte[count];
            Array.Copy(source, position, bytes, 0, count);
            position += count;
            return bytes;
        }

        private static ulong TakeNumber(byte[] source, ref int position, int bytes)
        {
            if (bytes > source.Length - position) throw new InvalidDataException("cut short");
            ulong number = 0;
            for (var i = 0; i < bytes; i++) number = number << 8 | source[position++];
            return number;
        }
    }

    internal static class Zmq
    {
        public const int Dealer = 5, SendMore = 2, DontWait = 1, MessageBytes = 64;
        public const int Linger = 17, ReconnectIvl = 18, ReconnectIvlMax = 21, ReceiveTimeout = 27, SendTimeout = 28,
            Immediate = 39, CurvePublicKey = 48, CurveSecretKey = 49, CurveServerKey = 50, HeartbeatIvl = 75,
            HeartbeatTimeout = 77;

        public static void Check(int result, string what)
        {
            if (result == 0) return;
            throw new DsaException("", what + ": " + Marshal.PtrToStringAnsi(zmq_strerror(zmq_errno())));
        }

        private const string Library = "libzmq";
        [DllImport(Library)] public static extern IntPtr zmq_ctx_new();
        [DllImport(Library)] public static extern int zmq_ctx_term(IntPtr context);
        [DllImport(Library)] public static extern IntPtr zmq_socket(IntPtr context, int type);
        [DllImport(Library)] public static extern int zmq_close(IntPtr socket);
        [DllImport(Library)]
        public static extern int zmq_setsockopt(IntPtr socket, int option, ref int value, IntPtr size);
        [DllImport(Library)]
        public static extern int zmq_setsockopt(IntPtr socket, int option, byte[] value, IntPtr size);
        [DllImport(Library)] public static extern int zmq_connect(IntPtr socket, byte[] address);
        [DllImport(Library)] public static extern int zmq_send(IntPtr socket, byte[] bytes, IntPtr size, int flags);
        [DllImport(Library)] public static extern int zmq_msg_init(IntPtr message);
        [DllImport(Library)] public static extern int zmq_msg_recv(IntPtr message, IntPtr socket, int flags);
        [DllImport(Library)] public static extern IntPtr zmq_msg_data(IntPtr message);
        [DllImport(Library)] public static extern IntPtr zmq_msg_size(IntPtr message);
        [DllImport(Library)] public static extern int zmq_msg_more(IntPtr message);
        [DllImport(Library)] public static extern int zmq_msg_close(IntPtr message);
        [DllImport(Library)] public static extern int zmq_errno();
        [DllImport(Library)] public static extern IntPtr zmq_strerror(int error);
    }
}

internal static class Example
{
    private const string Usage =
        "DsaClient ADDRESS [--world NAME] [--seed N] [--ticks N] [--steps N] [--fast] [--shm] [--picture FILE.ppm]\n" +
        "          [--prompt NAME]\n" +
        "  --steps    exactly so many denoising steps a tick, so that each run shows the same pictures\n" +
        "  --fast     do not wait for the world's native rate\n" +
        "  --shm      frames by shared memory, on the server's own machine\n" +
        "  --prompt   one of the world's prompts, where it takes a text\n" +
        "Keys of an encrypted connection, as Z85 text, are read from DSA_SERVER_KEY, DSA_PUBLIC_KEY, DSA_SECRET_KEY.";

    private static string address, picture = "frame.ppm";
    private static readonly Dsa.Options options = new Dsa.Options { Seed = 7 };
    private static ulong ticks = 300;
    private static int steps;
    private static bool fast;

    private static int Main(string[] arguments)
    {
        try
        {
            ReadArguments(arguments);
        }
        catch (FormatException)
        {
            Console.Error.WriteLine(Usage);
            return 2;
        }
        try
        {
            Play();
            return 0;
        }
        catch (Exception error) when (error is Dsa.DsaException || error is IOException)
        {
            Console.Error.WriteLine("DsaClient: " + error.Message);
            return 1;
        }
    }

    private static void ReadArguments(string[] arguments)
    {
        for (var i = 0; i < arguments.Length; i++)
        {
            Func<string> value = () => ++i < arguments.Length ? arguments[i] : throw new FormatException();
            switch (arguments[i])
            {
                case "--fast": fast = true; break;
                case "--shm": options.SharedMemory = true; break;
                case "--world": options.World = value(); break;
                case "--prompt": options.Prompt = value(); break;
                case "--picture": picture = value(); break;
                case "--seed": options.Seed = ulong.Parse(value()); break;
                case "--ticks": ticks = ulong.Parse(value()); break;
                case "--steps": steps = int.Parse(value()); break;
                default:
                    if (address != null || arguments[i].StartsWith("-")) throw new FormatException();
                    address = arguments[i];
                    break;
            }
        }
        if (address == null || ticks == 0) throw new FormatException();
    }

    private static Dsa.Keys KeysOfEnvironment()
    {
        var keys = new Dsa.Keys
        {
            Server = Environment.GetEnvironmentVariable("DSA_SERVER_KEY"),
            Public = Environment.GetEnvironmentVariable("DSA_PUBLIC_KEY"),
            Secret = Environment.GetEnvironmentVariable("DSA_SECRET_KEY"),
        };
        return keys.Server != null && keys.Public != null && keys.Secret != null ? keys : null;
    }

    // Whatever moves: the player of this example holds each action for 8 ticks.
    private static double[] Act(Dsa.World world, ulong tick)
    {
        var turn = tick / 8;
        if (world.Action == Dsa.ActionType.Discrete) return new double[] { turn % (ulong)world.Count };
        var action = new double[world.Count];
        for (var i = 0; i < world.Count; i++)
        {
            var share = (turn + (ulong)i) % 5 / 4.0;
            action[i] = world.Action == Dsa.ActionType.Box
                ? world.Low[i] + share * (world.High[i] - world.Low[i])
                : (turn + (ulong)i) % 2;
        }
        return action;
    }

    private static void Play()
    {
        using (var client = new Dsa.Client(address, KeysOfEnvironment()))
        {
            client.Open(options);
            var trips = new List<double>();
            long taken = 0, late = 0, recoveries = 0;
            var clock = Stopwatch.StartNew();
            var due = TimeSpan.Zero;
            while (client.Tick < ticks)
            {
                try
                {
                    var tick = client.Tick;
                    var asked = clock.Elapsed;
                    // A part of the period is left for the way there and back.
                    var frame = client.Step(Act(client.World, tick), client.World.Period.Ticks / 10 * 8 / 10, steps);
                    trips.Add((clock.Elapsed - asked).TotalMilliseconds * 1000);
                    if (frame.Tick != tick) throw new Dsa.DsaException("", "tick " + frame.Tick + " came for " + tick);
                    taken += frame.Steps;
                    if (frame.Status != "ok") late++;
                    if (client.Tick % 60 == 0) client.Snapshot();
                }
                catch (Dsa.LostException lost)
                {
                    Console.Error.WriteLine("DsaClient: " + lost.Message + "; recovering");
                    client.Recover(30000);
                    recoveries++;
                }
                due += client.World.Period;
                var left = due - clock.Elapsed;
                if (fast || left < TimeSpan.Zero) due = clock.Elapsed;
                else Thread.Sleep(left);
            }
            trips.Sort();
            Console.WriteLine(string.Format(System.Globalization.CultureInfo.InvariantCulture,
                "ticks={0} mean_steps={1:F3} late={2} recoveries={3} round_trip_us_p50={4:F0} round_trip_us_p99={5:F0}",
                client.Tick, (double)taken / trips.Count, late, recoveries, trips[trips.Count / 2],
                trips[trips.Count * 99 / 100]));
            using (var file = File.Create(picture))
            {
                var height = client.Frames.Length * client.World.Height; // one below the other
                var head = Encoding.ASCII.GetBytes("P6\n" + client.World.Width + " " + height + "\n255\n");
                file.Write(head, 0, head.Length);
                foreach (var pixels in client.Frames) file.Write(pixels, 0, pixels.Length);
            }
        }
    }
}
