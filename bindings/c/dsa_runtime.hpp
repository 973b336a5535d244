// dsa_runtime.hpp: DSA Runtime from C++17. RAII over dsa_runtime.h; errors are exceptions, degraded ticks are not.
//
//     dsa::Runtime runtime;
//     dsa::World world(runtime);
//     dsa::Session session(world);
//     std::vector<std::uint8_t> frame(world.spec().tick_bytes);
//     dsa::Tick tick = session.step(std::int32_t{1}, dsa::period, frame);
//     if (tick.status != DSA_OK) ...                                     // late, repeated or skipped
//
// A world keeps its runtime alive, and a session its world, so they may go in any order. The objects can be moved, not
// copied. Threads are as in dsa_runtime.h: a session serves one at a time, `cancel` may be called from any.

#ifndef DSA_RUNTIME_HPP
#define DSA_RUNTIME_HPP

#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "dsa_runtime.h"

namespace dsa {

// What every error of the library becomes.
class Error : public std::runtime_error {
public:
    Error(std::int32_t status, const char *message) : std::runtime_error(message), status_(status) {}
    // DSA_E_...
    std::int32_t status() const noexcept { return status_; }
    const char *name() const noexcept { return dsa_status_name(status_); }

private:
    std::int32_t status_;
};

// Nothing has happened; the same may be tried again.
struct DeadlineMissed : Error { using Error::Error; };
struct Cancelled : Error { using Error::Error; };
// libdsa_client: the server is away, or has given the session up.
struct Gone : Error { using Error::Error; };

// A status that is not negative; throws what a negative one stands for.
inline std::int32_t check(std::int32_t status)
{
    switch (status) {
    case DSA_E_DEADLINE: throw DeadlineMissed(status, dsa_last_error());
    case DSA_E_CANCELLED: throw Cancelled(status, dsa_last_error());
    case DSA_E_GONE: throw Gone(status, dsa_last_error());
    default:
        if (status < 0) {
            throw Error(status, dsa_last_error());
        }
        return status;
    }
}

namespace detail {

// A struct of the header, with its defaults.
template <typename Struct, std::int32_t (*init)(Struct *, std::size_t)>
struct Filled : Struct {
    Filled() { check(init(this, sizeof(Struct))); }
};

struct CloseRuntime { void operator()(dsa_runtime *handle) const noexcept { dsa_runtime_close(handle); } };
struct CloseWorld { void operator()(dsa_world *handle) const noexcept { dsa_world_close(handle); } };
struct CloseSession { void operator()(dsa_session *handle) const noexcept { dsa_session_close(handle); } };

}  // namespace detail

using RuntimeConfig = detail::Filled<dsa_runtime_config, dsa_runtime_config_init>;
using WorldConfig = detail::Filled<dsa_world_config, dsa_world_config_init>;
using SessionConfig = detail::Filled<dsa_session_config, dsa_session_config_init>;
using Controller = detail::Filled<dsa_controller, dsa_controller_init>;
using Spec = detail::Filled<dsa_spec, dsa_spec_init>;
using Tick = detail::Filled<dsa_tick, dsa_tick_init>;
using State = detail::Filled<dsa_session_state, dsa_session_state_init>;

// Budgets, besides any std::chrono duration.
struct Budget {
    std::uint64_t us;
    constexpr explicit Budget(std::uint64_t value) : us(value) {}
    template <typename Rep, typename Period>
    constexpr Budget(std::chrono::duration<Rep, Period> time)
        : us(static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(time).count()))
    {
        if (time <= time.zero()) {
            throw std::invalid_argument("budget: must be longer than 0");
        }
        us = us ? us : 1;  // 0 means something else
    }
};
inline constexpr Budget period{DSA_BUDGET_PERIOD};
inline constexpr Budget unlimited{DSA_BUDGET_NONE};

// The library, started; libdsa_client: the connection to a server.
class Runtime {
public:
    Runtime() : Runtime(RuntimeConfig()) {}
    explicit Runtime(const dsa_runtime_config &config)
    {
        dsa_runtime *opened = nullptr;
        check(dsa_runtime_open(&config, &opened));
        handle_ = std::shared_ptr<dsa_runtime>(opened, detail::CloseRuntime());
    }
    dsa_runtime *get() const noexcept { return handle_.get(); }

private:
    friend class World;
    std::shared_ptr<dsa_runtime> handle_;
};

class World {
public:
    explicit World(const Runtime &runtime) : World(runtime, WorldConfig()) {}
    World(const Runtime &runtime, const std::string &name) : World(runtime, named(name)) {}
    World(const Runtime &runtime, const dsa_world_config &config) : runtime_(runtime.handle_)
    {
        dsa_world *opened = nullptr;
        check(dsa_world_open(runtime.get(), &config, &opened));
        handle_ = std::shared_ptr<dsa_world>(opened, detail::CloseWorld());
        check(dsa_world_spec(opened, &spec_));
    }
    // What it points to lives as long as the world.
    const dsa_spec &spec() const noexcept { return spec_; }
    dsa_world *get() const noexcept { return handle_.get(); }

private:
    friend class Session;
    static WorldConfig named(const std::string &name)
    {
        WorldConfig config;
        config.world = name.c_str();
        return config;
    }
    std::shared_ptr<dsa_runtime> runtime_;
    std::shared_ptr<dsa_world> handle_;  // closed before the runtime
    Spec spec_;
};

class Session {
public:
    explicit Session(const World &world) : Session(world, SessionConfig()) {}
    Session(const World &world, const dsa_session_config &config)
        : runtime_(world.runtime_),
          world_(world.handle_),
          frame_bytes_(world.spec().frame_bytes),
          text_width_(world.spec().text_width)
    {
        dsa_session *opened = nullptr;
        check(dsa_session_open(world.get(), &config, &opened));
        handle_.reset(opened);
    }

    // Take memory and warm up, so that the steps do not have to.
    void prepare() { check(dsa_session_prepare(get())); }

    // One tick. The action is an int32_t (Discrete), or a container of uint8_t (MultiBinary) or float (Box) with
    // data() and size(). The frame has spec().tick_bytes, for all pictures of the tick; an empty one is not written.
    template <typename Action>
    Tick step(const Action &action, Budget budget, std::vector<std::uint8_t> &frame)
    {
        Tick tick;
        const auto [at, bytes] = view(action);
        check(dsa_session_step(get(), at, bytes, budget.us, frame.empty() ? nullptr : frame.data(), frame.size(), &tick));
        return tick;
    }

    // With exactly so many denoising steps.
    template <typename Action>
    Tick step_exactly(const Action &action, std::uint32_t steps, std::vector<std::uint8_t> &frame)
    {
        Tick tick;
        const auto [at, bytes] = view(action);
        check(dsa_session_step_exactly(get(), at, bytes, steps, DSA_BUDGET_NONE, frame.empty() ? nullptr : frame.data(),
                                       frame.size(), &tick));
        return tick;
    }

    // From any thread: let the step that another thread is in throw Cancelled. False if there was none to stop.
    bool cancel()
    {
        std::int32_t cancelled = 0;
        check(dsa_session_cancel(get(), &cancelled));
        return cancelled != 0;
    }

    std::vector<std::uint8_t> reset(std::uint64_t seed)
    {
        std::vector<std::uint8_t> frame(frame_bytes_);
        check(dsa_session_reset(get(), seed, frame.data(), frame.size()));
        return frame;
    }

    std::vector<std::uint8_t> rewind(std::uint32_t ticks)
    {
        std::vector<std::uint8_t> frame(frame_bytes_);
        check(dsa_session_rewind(get(), ticks, frame.data(), frame.size()));
        return frame;
    }

    std::vector<std::uint8_t> snapshot()
    {
        std::size_t bytes = 0;
        check(dsa_session_snapshot(get(), nullptr, 0, &bytes));
        std::vector<std::uint8_t> taken(bytes);
        check(dsa_session_snapshot(get(), taken.data(), taken.size(), &bytes));
        taken.resize(bytes);
        return taken;
    }

    std::vector<std::uint8_t> restore(const std::vector<std::uint8_t> &snapshot)
    {
        std::vector<std::uint8_t> frame(frame_bytes_);
        check(dsa_session_restore(get(), snapshot.data(), snapshot.size(), frame.data(), frame.size()));
        return frame;
    }

    // Sessions that go on from here, each on its own.
    std::vector<Session> fork(std::uint32_t count)
    {
        std::vector<dsa_session *> made(count);
        std::vector<Session> forks;
        forks.reserve(count);
        check(dsa_session_fork(get(), count, made.data()));
        for (dsa_session *handle : made) {
            forks.push_back(Session(*this, handle));
        }
        return forks;
    }

    // Condition the coming ticks on another text: one of spec().prompts ...
    void set_prompt(const std::string &name) { check(dsa_session_set_prompt(get(), name.c_str())); }

    // ... or embeddings of as many tokens as there are rows of spec().text_width in it.
    void set_text(const std::vector<float> &embeddings)
    {
        const std::size_t width = text_width_ ? text_width_ : 1;  // where there is none, the library says so
        if (embeddings.empty() || embeddings.size() % width) {
            throw std::invalid_argument("embeddings: not a number of rows of spec().text_width");
        }
        check(dsa_session_set_text(get(), embeddings.data(), static_cast<std::uint32_t>(embeddings.size() / width)));
    }

    void configure(const dsa_controller &controller) { check(dsa_session_configure(get(), &controller)); }

    Controller controller()
    {
        Controller found;
        check(dsa_session_controller(get(), &found));
        return found;
    }

    State where()
    {
        State state;
        check(dsa_session_where(get(), &state));
        return state;
    }

    dsa_session *get() const noexcept { return handle_.get(); }

private:
    Session(const Session &other, dsa_session *handle)
        : runtime_(other.runtime_),
          world_(other.world_),
          handle_(handle),
          frame_bytes_(other.frame_bytes_),
          text_width_(other.text_width_)
    {
    }

    template <typename Action>
    static std::pair<const void *, std::size_t> view(const Action &action)
    {
        if constexpr (std::is_integral_v<Action>) {
            static_assert(std::is_same_v<Action, std::int32_t>, "an action of a Discrete world is an int32_t");
            return {&action, sizeof action};
        } else {
            return {action.data(), action.size() * sizeof *action.data()};
        }
    }

    // Closed in the order from the last to the first.
    std::shared_ptr<dsa_runtime> runtime_;
    std::shared_ptr<dsa_world> world_;
    std::unique_ptr<dsa_session, detail::CloseSession> handle_;
    std::size_t frame_bytes_;
    std::uint32_t text_width_;
};

}  // namespace dsa

#endif
