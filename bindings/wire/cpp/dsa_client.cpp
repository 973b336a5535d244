// A client of `dsa serve` in one file of C++17: cppzmq and msgpack-cxx.
//
//     c++ -O2 -std=c++17 -DMSGPACK_NO_BOOST dsa_client.cpp -o dsa_client -lzmq
//     ./dsa_client tcp://127.0.0.1:5577
//
// The client is namespace dsa. To use it in a program of yours, copy it, or include this file:
//
//     #define DSA_NO_EXAMPLE
//     #include "dsa_client.cpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <msgpack.hpp>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#if defined(__unix__) || defined(__APPLE__)
#define DSA_SHARED_MEMORY 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

// --- The client ------------------------------------------------------------------------------------------------------

namespace dsa {

using Bytes = std::vector<uint8_t>;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// An error of the server, or one of this side where `code` is empty.
struct Error : std::runtime_error {
    Error(std::string code, const std::string& message, bool retry = false)
        : std::runtime_error(code.empty() ? message : code + ": " + message), code(std::move(code)), retry(retry) {}
    std::string code;
    bool retry;  // asking later may help
};

// The server is down, frozen or restarting, or does not know the session any more. `Client::recover` is the answer.
struct Lost : Error {
    using Error::Error;
};

enum class ActionType { discrete, multi_binary, box };

struct World {
    std::string name;
    int height = 0, width = 0;         // of a picture, uint8[height][width][3], RGB
    int frames_per_tick = 1;           // pictures that a tick draws: 1 in most worlds
    std::chrono::microseconds period;  // between two ticks at the native rate
    ActionType action = ActionType::discrete;
    size_t count = 0;               // choices of a discrete action space, otherwise values in an action
    std::vector<double> low, high;  // bounds of a box's values

    size_t picture_bytes() const { return size_t(height) * size_t(width) * 3; }
    size_t tick_bytes() const { return size_t(frames_per_tick) * picture_bytes(); }
};

struct Options {
    std::string world;  // empty for the server's first one
    uint64_t seed = 0;
    bool shared_memory = false;  // frames by shared memory: only on the server's own machine
    std::string prompt = {};     // one of the world's; empty for its first, and in worlds that take no text
};

// Z85 text, for a server with encryption.
struct Keys {
    std::string server, own_public, own_secret;
};

struct Frame {
    uint64_t tick = 0;
    int64_t frame_tick = 0;  // the tick whose frame this is: an earlier one if `status` is repeated or skipped
    std::string status;      // ok, late, repeated or skipped
    int steps = 0;           // denoising steps that it took
    double confidence = 0;
};

// What a message's map holds. Raises `Error` for a field that is missing or ill-typed.
class Fields {
public:
    explicit Fields(const msgpack::object& object) : map_(object.as<std::map<std::string, msgpack::object>>()) {}

    template <typename T>
    T get(const std::string& name) const {
        return read<T>(name, at(name));
    }

    template <typename T>
    T get(const std::string& name, T otherwise) const {
        auto found = map_.find(name);
        return found == map_.end() || found->second.is_nil() ? otherwise : read<T>(name, found->second);
    }

    Fields map(const std::string& name) const { return Fields(at(name)); }

    std::vector<Fields> maps(const std::string& name) const {
        std::vector<Fields> result;
        for (const auto& object : get<std::vector<msgpack::object>>(name, {})) result.emplace_back(object);
        return result;
    }

private:
    const msgpack::object& at(const std::string& name) const {
        auto found = map_.find(name);
        if (found == map_.end()) throw Error("", "the server's reply lacks the field " + name);
        return found->second;
    }

    template <typename T>
    static T read(const std::string& name, const msgpack::object& object) {
        try {
            return object.as<T>();
        } catch (const msgpack::type_error&) {
            throw Error("", "the server's reply has an ill-typed field " + name);
        }
    }

    std::map<std::string, msgpack::object> map_;
};

// The reading side of a ring of frames; PROTOCOL.md has its layout.
class Ring {
public:
#if DSA_SHARED_MEMORY
    Ring(const std::string& path, uint64_t token, size_t tick_bytes) {
        int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        struct stat found {};
        bool opened = file >= 0 && !::fstat(file, &found) && found.st_size >= 64;
        if (opened) {
            size_ = size_t(found.st_size);
            void* start = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
            if (start != MAP_FAILED) start_ = static_cast<const uint8_t*>(start);
        }
        if (file >= 0) ::close(file);
        if (!start_) throw Error("", "shared memory: cannot map the ring; is the server on this machine?");
        stride_ = number<uint64_t>(24);
        uint64_t slots = number<uint32_t>(12), capacity = number<uint64_t>(32);
        bool good = !std::memcmp(start_, "DSARING\n\1\0\0\0", 12) && number<uint64_t>(16) == token &&
                    capacity >= tick_bytes && stride_ % 64 == 0 && stride_ >= capacity + 64 && slots >= 2 &&
                    stride_ <= (size_ - 64) / slots;
        if (good) return;
        ::munmap(const_cast<uint8_t*>(start_), size_);
        throw Error("", "shared memory: not the ring that was announced");
    }
    ~Ring() { ::munmap(const_cast<uint8_t*>(start_), size_); }
#else
    Ring(const std::string&, uint64_t, size_t) { throw Error("", "shared memory is not supported on this system"); }
#endif
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    // Copies the frame out, picture by picture. False if it is not, or no longer, in the slot.
    bool read(uint64_t slot, uint64_t seq, std::vector<Bytes>& target) const {
        const size_t each = target[0].size(), bytes = each * target.size();
        if (slot >= (size_ - 64) / stride_ || bytes + 64 > stride_) return false;
        const size_t start = 64 + slot * stride_;
        const auto& label = *reinterpret_cast<const std::atomic<uint64_t>*>(start_ + start);
        if (!seq || label.load(std::memory_order_acquire) != seq || number<uint64_t>(start + 8) != bytes) return false;
        for (size_t i = 0; i < target.size(); i++)
            std::memcpy(target[i].data(), start_ + start + 64 + i * each, each);
        std::atomic_thread_fence(std::memory_order_acquire);
        return label.load(std::memory_order_relaxed) == seq;
    }

private:
    template <typename T>
    T number(size_t offset) const {
        T value;
        std::memcpy(&value, start_ + offset, sizeof value);
        return value;
    }

    const uint8_t* start_ = nullptr;
    size_t size_ = 0;
    uint64_t stride_ = 0;
};

// One session on a server. All calls raise `Lost` or `Error`. For one thread at a time.
class Client {
public:
    milliseconds timeout{1000};  // an unanswered request is sent again after this time,
    int tries = 3;               // so often in all. Sending again is safe: what has run is answered, not run again

    // Connects and says hello.
    explicit Client(const std::string& address, const std::optional<Keys>& keys = std::nullopt)
        : socket_(context_, zmq::socket_type::dealer) {
        socket_.set(zmq::sockopt::linger, 0);
        socket_.set(zmq::sockopt::immediate, true);  // steps for a server that is down must not pile up and all run
        socket_.set(zmq::sockopt::reconnect_ivl, 50);
        socket_.set(zmq::sockopt::reconnect_ivl_max, 400);
        socket_.set(zmq::sockopt::heartbeat_ivl, 200);  // a frozen server is noticed
        socket_.set(zmq::sockopt::heartbeat_timeout, 3000);  // all tries: or no slow message would arrive
        if (keys) {
            socket_.set(zmq::sockopt::curve_serverkey, keys->server);
            socket_.set(zmq::sockopt::curve_publickey, keys->own_public);
            socket_.set(zmq::sockopt::curve_secretkey, keys->own_secret);
        }
        socket_.connect(address);
        hello();
    }

    ~Client() {
        try {
            close();
        } catch (const std::exception&) {
            // Without an answer, the session goes when its lease runs out.
        }
    }

    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    const World& world() const { return world_; }
    uint64_t tick() const { return tick_; }               // index of the next tick
    const Bytes& pixels() const { return frames_.back(); }  // the newest picture, uint8[height][width][3]
    // All pictures of the newest tick, oldest first; the last is `pixels`. One that no tick made after open and restore.
    const std::vector<Bytes>& frames() const { return frames_; }
    const Bytes& last_snapshot() const { return snapshot_; }  // empty before the first

    // Opens a session; `pixels` is then the picture that it starts from.
    void open(const Options& options) {
        options_ = options;
        open_session();
    }

    // One tick. action: one value for a discrete action space, otherwise world().count of them.
    // budget: 0 for a native period, negative for none. steps: exactly so many; 0 to leave it to the controller.
    Frame step(const std::vector<double>& action, std::chrono::microseconds budget = {}, int steps = 0) {
        Request request(*this, "step", 1 + (budget.count() != 0) + (steps != 0));
        request.key("action");
        put_action(request, action);
        if (budget.count()) request.field("budget_us", int64_t(budget.count() < 0 ? -1 : budget.count()));
        if (steps) request.field("steps", steps);
        Reply reply = exchange(request);
        Frame frame;
        frame.tick = reply.fields->get<uint64_t>("tick");
        frame.frame_tick = reply.fields->get<int64_t>("frame_tick");
        frame.status = reply.fields->get<std::string>("status");
        frame.steps = reply.fields->get<int>("steps");
        frame.confidence = reply.fields->get<double>("confidence");
        tick_ = frame.tick + 1;
        take_frame(reply, world_.frames_per_tick);
        return frame;
    }

    // The session's state, which is also kept for `recover`.
    const Bytes& snapshot() {
        Request request(*this, "snapshot", 0);
        Reply reply = exchange(request);
        keep_snapshot(reply);
        return snapshot_;
    }

    // Goes on from a snapshot.
    void restore(const Bytes& snapshot) {
        Request request(*this, "restore", 1);
        request.body = &snapshot;
        request.key("bufs");
        request.packer.pack_array(1).pack_map(5);
        request.field("n", "snapshot");
        request.field("d", "u1");
        request.field("s", std::vector<uint64_t>{snapshot.size()});
        request.field("at", "part");
        request.field("enc", "raw");
        Reply reply = exchange(request);
        tick_ = reply.fields->get<uint64_t>("tick");
        take_frame(reply, 1);
        if (&snapshot != &snapshot_) snapshot_ = snapshot;
    }

    // Keeps the session's lease alive while it is not stepped.
    void ping() {
        Request request(*this, "ping", 0);
        exchange(request);
    }

    // Says hello, opens and restores until that succeeds. Without a snapshot the session starts anew.
    void recover(milliseconds patience) {
        const auto until = Clock::now() + patience;
        for (;;) {
            try {
                hello();
                open_session();
                if (!snapshot_.empty()) restore(snapshot_);
                return;
            } catch (const Error& error) {
                const bool lasting = !dynamic_cast<const Lost*>(&error) && !error.retry;
                if (lasting || Clock::now() >= until) throw;
            }
            std::this_thread::sleep_for(milliseconds(100));
        }
    }

    // Closes the session, if one is open.
    void close() {
        if (!sid_) return;
        tries = 1;
        Request request(*this, "close", 0);
        sid_ = 0;
        exchange(request);
    }

private:
    struct Request {
        Request(Client& client, const char* type, int more) : packer(header), id(++client.id_) {
            packer.pack_map(uint32_t(4 + more));
            field("t", type);
            field("id", id);
            field("epoch", client.epoch_);
            field("sid", client.sid_);
        }
        void key(const char* name) { packer.pack(name); }
        template <typename T>
        void field(const char* name, const T& value) {
            key(name);
            packer.pack(value);
        }

        msgpack::sbuffer header;
        msgpack::packer<msgpack::sbuffer> packer;
        uint64_t id;
        const Bytes* body = nullptr;
    };

    struct Reply {
        zmq::message_t packed;  // the header's texts may stay in here
        msgpack::object_handle header;
        std::optional<Fields> fields;
        std::vector<zmq::message_t> buffers;
    };

    // Where a reply's buffer is.
    struct Place {
        Fields description;
        const zmq::message_t* part;  // nullptr if it is in shared memory
    };

    // One message that has arrived; nothing if it is none of DSA1.
    std::optional<Reply> receive() {
        std::vector<zmq::message_t> parts;
        do {
            zmq::message_t part;
            if (!socket_.recv(part, zmq::recv_flags::dontwait)) return std::nullopt;
            parts.push_back(std::move(part));
        } while (parts.back().more());
        if (parts.size() < 2 || parts[0].to_string_view() != "DSA1") return std::nullopt;
        Reply reply;
        try {
            reply.packed = std::move(parts[1]);
            reply.header = msgpack::unpack(reply.packed.data<char>(), reply.packed.size());
            reply.fields.emplace(reply.header.get());
        } catch (const std::exception&) {
            return std::nullopt;
        }
        std::move(parts.begin() + 2, parts.end(), std::back_inserter(reply.buffers));
        return reply;
    }

    static std::optional<Place> find(const Reply& reply, const std::string& name) {
        size_t next = 0;
        for (const Fields& description : reply.fields->maps("bufs")) {
            const bool here = description.get<std::string>("at") == "part";
            if (description.get<std::string>("n") == name)
                return Place{description, here && next < reply.buffers.size() ? &reply.buffers[next] : nullptr};
            next += here;
        }
        return std::nullopt;
    }

    // Waits until the socket can be read or written. False if it cannot be until then.
    bool ready(short events, Clock::time_point until) {
        for (auto now = Clock::now(); now < until; now = Clock::now()) {
            zmq::pollitem_t item{socket_.handle(), 0, events, 0};
            const auto left = std::chrono::ceil<milliseconds>(until - now);
            if (zmq_poll(&item, 1, long(left.count())) > 0) return true;  // not so after a signal
        }
        return false;
    }

    // Sends a request. False if it would have to wait.
    bool post(const Request& request) {
        if (!socket_.send(zmq::str_buffer("DSA1"), zmq::send_flags::sndmore | zmq::send_flags::dontwait)) return false;
        zmq::const_buffer header(request.header.data(), request.header.size());
        socket_.send(header, request.body ? zmq::send_flags::sndmore : zmq::send_flags::none);
        if (request.body) socket_.send(zmq::buffer(*request.body), zmq::send_flags::none);
        return true;
    }

    // Sends the request until it is answered, and returns the answer.
    Reply exchange(Request& request) {
        for (int attempt = 0; attempt < tries; attempt++) {
            const auto until = Clock::now() + timeout;
            if (!ready(ZMQ_POLLOUT, until)) continue;  // not connected: nothing piles up meanwhile
            if (!post(request)) continue;
            while (ready(ZMQ_POLLIN, until)) {
                auto reply = receive();
                if (!reply) continue;
                const auto type = reply->fields->get<std::string>("t", "");
                const auto id = reply->fields->get<uint64_t>("id", 0);
                if (type == "handover" && reply->fields->get<uint64_t>("sid", 0) == sid_) keep_snapshot(*reply);
                if (id != request.id) continue;  // an answer to an earlier request, which came late
                if (type == "error") refuse(*reply);
                return std::move(*reply);
            }
        }
        throw Lost("", "no answer from the server");
    }

    [[noreturn]] void refuse(const Reply& reply) {
        const auto code = reply.fields->get<std::string>("code", "internal");
        const auto message = reply.fields->get<std::string>("msg", "");
        if (code == "draining" && sid_ && reply.fields->get<uint64_t>("sid", 0) == sid_) {
            keep_snapshot(reply);
            give_up_session();
        }
        if (code == "epoch" || code == "session" || code == "draining") throw Lost(code, message, true);
        throw Error(code, message, reply.fields->get<bool>("retry", false));
    }

    // Says `close` to a server that has handed the session back: it does not stop before it knows that this has arrived.
    void give_up_session() {
        post(Request(*this, "close", 0));
        sid_ = 0;
    }

    void keep_snapshot(const Reply& reply) {
        const auto place = find(reply, "snapshot");
        if (!place || !place->part) return;
        const auto* start = place->part->data<uint8_t>();
        snapshot_.assign(start, start + place->part->size());
    }

    void take_frame(const Reply& reply, int pictures) {
        const auto place = find(reply, "frame");
        const size_t each = world_.picture_bytes();
        frames_.resize(size_t(pictures));
        for (Bytes& picture : frames_) picture.resize(each);
        if (place && place->part && place->part->size() == each * frames_.size()) {
            for (size_t i = 0; i < frames_.size(); i++)
                std::memcpy(frames_[i].data(), place->part->data<uint8_t>() + i * each, each);
            return;
        }
        if (!place || place->part || !ring_) throw Error("", "a reply without a picture of the world's size");
        const auto slot = place->description.get<uint64_t>("slot"), seq = place->description.get<uint64_t>("seq");
        if (!ring_->read(slot, seq, frames_))
            throw Lost("", "the frame is no longer in shared memory");
    }

    void hello() {
        Request request(*this, "hello", 4);
        request.field("min", 1);
        request.field("max", 1);
        request.field("features", std::vector<std::string>{"shm"});
        request.field("client", "dsa_client.cpp");
        epoch_ = exchange(request).fields->get<uint64_t>("epoch");
    }

    void open_session() {
        Request specs(*this, "specs", !options_.world.empty());
        if (!options_.world.empty()) specs.field("world", options_.world);
        const Reply known = exchange(specs);
        world_ = read_world(*known.fields);

        // The same key gives the same session, so that a retry opens no second one.
        std::random_device random;
        const uint64_t key = uint64_t(random()) << 32 | random();
        Request request(*this, "open", 4 + !options_.prompt.empty());
        request.field("key", key);
        request.field("world", world_.name);
        request.field("seed", options_.seed);
        request.field("frames", options_.shared_memory ? "shm" : "part");
        if (!options_.prompt.empty()) request.field("prompt", options_.prompt);
        const Reply reply = exchange(request);
        sid_ = reply.fields->get<uint64_t>("sid");
        tick_ = reply.fields->get<uint64_t>("tick");
        ring_.reset();
        if (options_.shared_memory) {
            const Fields ring = reply.fields->map("ring");
            ring_ = std::make_unique<Ring>(ring.get<std::string>("path"), ring.get<uint64_t>("token"),
                                           world_.tick_bytes());
        }
        take_frame(reply, 1);
    }

    static World read_world(const Fields& fields) {
        const Fields spec = fields.map("spec"), frame = spec.map("frame"), space = spec.map("action_space");
        World world;
        world.name = fields.get<std::string>("world");
        world.height = frame.get<int>("height");
        world.width = frame.get<int>("width");
        world.frames_per_tick = std::max(frame.get<int>("frames_per_tick"), 1);
        world.period = std::chrono::microseconds(int64_t(1e6 * world.frames_per_tick / frame.get<double>("fps")));
        const auto type = space.get<std::string>("type");
        if (type == "Box") {
            world.action = ActionType::box;
            world.low = space.get<std::vector<double>>("low");
            world.high = space.get<std::vector<double>>("high");
            world.count = std::min(world.low.size(), world.high.size());
        } else {
            world.action = type == "Discrete" ? ActionType::discrete : ActionType::multi_binary;
            world.count = space.get<size_t>("n");
        }
        return world;
    }

    void put_action(Request& request, const std::vector<double>& action) const {
        if (world_.action == ActionType::discrete) {
            request.packer.pack(int64_t(action.at(0)));
        } else if (world_.action == ActionType::box) {
            request.packer.pack(action);
        } else {
            request.packer.pack(std::vector<int>(action.begin(), action.end()));
        }
    }

    zmq::context_t context_;
    zmq::socket_t socket_;
    uint64_t epoch_ = 0, sid_ = 0, id_ = 0, tick_ = 0;
    Options options_;
    World world_;
    Bytes snapshot_;
    std::vector<Bytes> frames_{1};
    std::unique_ptr<Ring> ring_;
};

}  // namespace dsa

// --- The example -----------------------------------------------------------------------------------------------------

#ifndef DSA_NO_EXAMPLE

namespace {

constexpr char usage[] =
    "dsa_client ADDRESS [--world NAME] [--seed N] [--ticks N] [--steps N] [--fast] [--shm] [--picture FILE.ppm]\n"
    "           [--prompt NAME]\n"
    "  --steps    exactly so many denoising steps a tick, so that each run shows the same pictures\n"
    "  --fast     do not wait for the world's native rate\n"
    "  --shm      frames by shared memory, on the server's own machine\n"
    "  --prompt   one of the world's prompts, where it takes a text\n"
    "Keys of an encrypted connection, as Z85 text, are read from DSA_SERVER_KEY, DSA_PUBLIC_KEY and DSA_SECRET_KEY.\n";

struct Arguments {
    std::string address, picture = "frame.ppm";
    dsa::Options options{"", 7, false, ""};
    uint64_t ticks = 300;
    int steps = 0;
    bool fast = false;

    // False if they make no sense.
    bool read(int argc, char** argv) {
        for (int i = 1; i < argc; i++) {
            const std::string name = argv[i];
            const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
            if (name == "--fast") fast = true;
            else if (name == "--shm") options.shared_memory = true;
            else if (name == "--world" && value) options.world = value, i++;
            else if (name == "--prompt" && value) options.prompt = value, i++;
            else if (name == "--picture" && value) picture = value, i++;
            else if (name == "--seed" && value) options.seed = std::strtoull(value, nullptr, 10), i++;
            else if (name == "--ticks" && value) ticks = std::strtoull(value, nullptr, 10), i++;
            else if (name == "--steps" && value) steps = std::atoi(value), i++;
            else if (address.empty() && name[0] != '-') address = name;
            else return false;
        }
        return !address.empty() && ticks;
    }
};

std::optional<dsa::Keys> keys_of_environment() {
    const char *server = std::getenv("DSA_SERVER_KEY"), *own_public = std::getenv("DSA_PUBLIC_KEY"),
               *own_secret = std::getenv("DSA_SECRET_KEY");
    if (!server || !own_public || !own_secret) return std::nullopt;
    return dsa::Keys{server, own_public, own_secret};
}

// Whatever moves: the player of this example holds each action for 8 ticks.
std::vector<double> act(const dsa::World& world, uint64_t tick) {
    const uint64_t turn = tick / 8;
    if (world.action == dsa::ActionType::discrete) return {double(turn % world.count)};
    std::vector<double> action;
    for (size_t i = 0; i < world.count; i++) {
        const double share = double((turn + i) % 5) / 4;
        action.push_back(world.action == dsa::ActionType::box ? world.low[i] + share * (world.high[i] - world.low[i])
                                                              : double((turn + i) % 2));
    }
    return action;
}

void play(const Arguments& arguments) {
    dsa::Client client(arguments.address, keys_of_environment());
    client.open(arguments.options);
    std::vector<int64_t> trips;
    uint64_t steps_taken = 0, late = 0;
    int recoveries = 0;
    auto due = dsa::Clock::now();
    while (client.tick() < arguments.ticks) {
        try {
            const uint64_t tick = client.tick();
            const auto asked = dsa::Clock::now();
            // A part of the period is left for the way there and back.
            const auto frame = client.step(act(client.world(), tick), client.world().period * 8 / 10, arguments.steps);
            trips.push_back((dsa::Clock::now() - asked) / std::chrono::microseconds(1));
            if (frame.tick != tick)
                throw dsa::Error("", "tick " + std::to_string(frame.tick) + " came for " + std::to_string(tick));
            steps_taken += uint64_t(frame.steps);
            late += frame.status != "ok";
            if (client.tick() % 60 == 0) client.snapshot();
        } catch (const dsa::Lost& lost) {
            std::cerr << "dsa_client: " << lost.what() << "; recovering\n";
            client.recover(dsa::milliseconds(30000));
            recoveries++;
        }
        due = std::max(due + client.world().period, dsa::Clock::now());
        if (!arguments.fast) std::this_thread::sleep_until(due);
    }
    std::sort(trips.begin(), trips.end());
    std::cout << std::fixed << std::setprecision(3) << "ticks=" << client.tick()
              << " mean_steps=" << double(steps_taken) / double(trips.size()) << " late=" << late
              << " recoveries=" << recoveries << " round_trip_us_p50=" << trips[trips.size() / 2]
              << " round_trip_us_p99=" << trips[trips.size() * 99 / 100] << "\n";
    std::ofstream picture(arguments.picture, std::ios::binary);
    const auto& frames = client.frames();  // one below the other
    picture << "P6\n" << client.world().width << " " << frames.size() * size_t(client.world().height) << "\n255\n";
    for (const dsa::Bytes& frame : frames)
        picture.write(reinterpret_cast<const char*>(frame.data()), std::streamsize(frame.size()));
    if (!picture.flush()) throw dsa::Error("", arguments.picture + ": cannot be written");
}

}  // namespace

int main(int argc, char** argv) {
    Arguments arguments;
    if (!arguments.read(argc, argv)) {
        std::cerr << usage;
        return 2;
    }
    try {
        play(arguments);
    } catch (const std::exception& error) {
        std::cerr << "dsa_client: " << error.what() << "\n";
        return 1;
    }
    return 0;
}

#endif
