// dsa_runtime.hpp in use: a session, a fork of it, going back, and errors as exceptions.
//
//     c++ -std=c++17 hpp_example.cpp -o hpp_example -ldsa_runtime      (or -ldsa_client)
//     ./hpp_example --world NAME

#include <dsa_runtime.hpp>

#include <cstring>
#include <iostream>

namespace {

// An action of any world, by number.
std::vector<std::uint8_t> action_bytes(const dsa_spec &spec, std::uint32_t number)
{
    std::vector<std::uint8_t> bytes(spec.action_bytes);
    if (spec.action_type == DSA_DISCRETE) {
        const std::int32_t choice = static_cast<std::int32_t>(number % spec.action_count);
        std::memcpy(bytes.data(), &choice, sizeof choice);
    } else if (spec.action_type == DSA_MULTI_BINARY) {
        bytes[number % spec.action_count] = 1;
    } else {
        std::memcpy(bytes.data(), number % 2 ? spec.action_high : spec.action_low, bytes.size());
    }
    return bytes;
}

void play(const std::string &name)
{
    dsa::Runtime runtime;
    dsa::World world = name.empty() ? dsa::World(runtime) : dsa::World(runtime, name);
    const dsa_spec &spec = world.spec();

    dsa::SessionConfig config;
    config.seed = 7;
    config.history = 4;
    dsa::Session session(world, config);
    session.prepare();
    std::vector<std::uint8_t> frame(spec.tick_bytes), other(spec.tick_bytes);
    for (std::uint32_t i = 0; i < 8; i++) {
        const dsa::Tick tick = session.step(action_bytes(spec, i), std::chrono::milliseconds(200), frame);
        std::cout << "tick " << tick.tick << ": " << tick.steps << " steps, " << dsa_status_name(tick.status) << "\n";
    }

    // A fork goes on by itself, and draws the same if it is asked the same.
    dsa::Session branch = std::move(session.fork(1).front());
    session.step_exactly(action_bytes(spec, 1), 1, frame);
    branch.step_exactly(action_bytes(spec, 1), 1, other);
    if (frame != other) {
        throw std::logic_error("the fork draws something else");
    }
    const std::vector<std::uint8_t> taken = session.snapshot();
    session.rewind(2);
    session.restore(taken);
    std::cout << "snapshot of " << taken.size() << " bytes, at tick " << session.where().tick << "\n";

    // Worlds that take text can be told another one between two ticks: by name, or by embeddings made elsewhere.
    if (spec.text_width) {
        session.set_prompt(spec.prompts[spec.prompt_count - 1]);
        session.step_exactly(action_bytes(spec, 1), 1, frame);
        session.set_text(std::vector<float>(spec.text_width));
        session.step_exactly(action_bytes(spec, 1), 1, other);
        std::cout << spec.prompt_count << " prompts, " << spec.frames_per_tick << " pictures a tick\n";
    }

    // The runtime, the world and the session may go in any order.
    dsa::Session kept = std::move(session);
    try {
        kept.rewind(1000);
    } catch (const dsa::Error &error) {
        std::cout << error.name() << ": " << error.what() << "\n";
    }
}

}  // namespace

int main(int argc, char **argv)
{
    if (argc != 1 && !(argc == 3 && !std::strcmp(argv[1], "--world"))) {
        std::cerr << "hpp_example [--world NAME]\n";
        return 2;
    }
    try {
        play(argc == 3 ? argv[2] : "");
    } catch (const std::exception &error) {
        std::cerr << "hpp_example: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
