/* A life: every call that moves a session. play WORLD FRAMES STEPS < ACTIONS: writes the frames to a file. */

#include <stdbool.h>

#include "check.h"

enum { MOST = 4096 };

#define ROUNDING 20.0 /* of times that went over a wire as whole microseconds */

static dsa_spec spec;

static FILE *frames;

/* Steps with `action`, and writes the frame if `shown`. */
static void step(dsa_session *session, const void *action, uint32_t steps, uint8_t *frame, bool shown)
{
    dsa_tick tick;
    CHECK(dsa_tick_init(&tick, sizeof tick) == DSA_OK);
    CHECK(dsa_session_step_exactly(session, action, spec.action_bytes, steps, DSA_BUDGET_NONE, frame, spec.frame_bytes,
                                   &tick) == DSA_OK);
    CHECK(tick.status == DSA_OK && tick.steps == steps && tick.stopped_by == DSA_STOPPED_REQUEST);
    CHECK(tick.budget_us == DSA_BUDGET_NONE && tick.call_us >= tick.total_us && tick.total_us > 0);
    double parts = tick.wait_us + tick.denoise_sum_us + tick.abandoned_us + tick.decode_us + tick.sdk_us, sum = 0;
    for (uint32_t i = 0; i < steps; i++) sum += tick.denoise_us[i];
    CHECK(parts > tick.total_us - ROUNDING && parts < tick.total_us + ROUNDING);
    CHECK(sum > tick.denoise_sum_us - ROUNDING && sum < tick.denoise_sum_us + ROUNDING);
    if (shown) CHECK(fwrite(frame, 1, spec.frame_bytes, frames) == spec.frame_bytes);
}

int main(int count, char **arguments)
{
    static uint8_t actions[MOST];
    dsa_runtime *runtime;
    dsa_world *world;
    dsa_session *session, *forks[3];
    dsa_session_config config;
    dsa_session_state state;
    CHECK(count == 4);
    uint32_t steps = (uint32_t)atoi(arguments[3]);
    CHECK((frames = fopen(arguments[2], "wb")) != NULL);
    open_world(arguments[1], &runtime, &world, &spec);
    size_t ticks = fread(actions, 1, MOST, stdin) / spec.action_bytes, half = ticks / 2;
    CHECK(dsa_session_config_init(&config, sizeof config) == DSA_OK);
    CHECK(dsa_session_state_init(&state, sizeof state) == DSA_OK);
    config.seed = 7;
    config.history = 4;
    CHECK(dsa_session_open(world, &config, &session) == DSA_OK);
    CHECK(dsa_session_prepare(session) == DSA_OK);
    uint8_t *frame = malloc(spec.frame_bytes), *shown = malloc(spec.frame_bytes);
    CHECK(frame != NULL && shown != NULL);

    for (size_t i = 0; i < half; i++) step(session, actions + i * spec.action_bytes, steps, frame, true);

    /* There and back again, on all ways; then the rest must be as if nothing had been. */
    size_t bytes, written;
    CHECK(dsa_session_snapshot(session, NULL, 0, &bytes) == DSA_OK);
    uint8_t *snapshot = malloc(bytes);
    CHECK(snapshot != NULL);
    CHECK(dsa_session_snapshot(session, snapshot, bytes, &written) == DSA_OK && written <= bytes);
    step(session, actions, steps, shown, false);
    step(session, actions, steps, shown, false);
    CHECK(dsa_session_rewind(session, 2, shown, spec.frame_bytes) == DSA_OK);
    CHECK(memcmp(shown, frame, spec.frame_bytes) == 0);
    CHECK(dsa_session_reset(session, 3, shown, spec.frame_bytes) == DSA_OK);
    CHECK(dsa_session_where(session, &state) == DSA_OK && state.tick == 0 && state.seed == 3);
    CHECK(dsa_session_restore(session, snapshot, written, shown, spec.frame_bytes) == DSA_OK);
    CHECK(memcmp(shown, frame, spec.frame_bytes) == 0);
    CHECK(dsa_session_where(session, &state) == DSA_OK && state.tick == half && state.seed == 7);
    CHECK(dsa_session_fork(session, 3, forks) == DSA_OK);
    step(forks[0], actions, steps, shown, false);
    CHECK(dsa_session_close(forks[0]) == DSA_OK && dsa_session_close(session) == DSA_OK);
    for (size_t i = half; i < ticks; i++) step(forks[1], actions + i * spec.action_bytes, steps, frame, true);

    CHECK(dsa_world_close(world) == DSA_OK); /* with forks[1] and forks[2] */
    CHECK(dsa_session_where(forks[2], &state) == DSA_E_HANDLE);
    CHECK(dsa_runtime_close(runtime) == DSA_OK);
    free(snapshot);
    free(frame);
    free(shown);
    CHECK(fclose(frames) == 0);
    return 0;
}
