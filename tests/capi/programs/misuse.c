/* Everything that a program can get wrong: each is noticed, said, and leaves the session as it was. misuse WORLD */

#include "check.h"

static dsa_runtime *runtime;
static dsa_world *world;
static dsa_session *session;
static dsa_spec spec;
static dsa_tick tick;
static uint8_t *frame;
static int32_t action = 1;
static const float embeddings[1] = {1};

static void nulls(void)
{
    EXPECT(DSA_E_ARGUMENT, dsa_runtime_open(NULL, NULL), "runtime");
    EXPECT(DSA_E_ARGUMENT, dsa_world_open(runtime, NULL, NULL), "world");
    EXPECT(DSA_E_ARGUMENT, dsa_world_spec(world, NULL), "spec");
    EXPECT(DSA_E_ARGUMENT, dsa_session_open(world, NULL, NULL), "session");
    EXPECT(DSA_E_ARGUMENT, dsa_session_step(session, NULL, sizeof action, 0, frame, spec.frame_bytes, &tick), "action");
    EXPECT(DSA_E_ARGUMENT, dsa_session_step(session, &action, sizeof action, 0, NULL, 1, &tick), "frame");
    EXPECT(DSA_E_ARGUMENT, dsa_session_reset(session, 0, NULL, 1), "frame");
    EXPECT(DSA_E_ARGUMENT, dsa_session_snapshot(session, NULL, 0, NULL), "bytes");
    size_t bytes;
    EXPECT(DSA_E_ARGUMENT, dsa_session_snapshot(session, NULL, 1, &bytes), "buffer");
    EXPECT(DSA_E_ARGUMENT, dsa_session_restore(session, NULL, 0, NULL, 0), "snapshot");
    EXPECT(DSA_E_ARGUMENT, dsa_session_fork(session, 1, NULL), "forks");
    dsa_session *fork;
    EXPECT(DSA_E_ARGUMENT, dsa_session_fork(session, 0, &fork), "count");
    EXPECT(DSA_E_ARGUMENT, dsa_session_fork(session, 65537, &fork), "count");
    EXPECT(DSA_E_ARGUMENT, dsa_session_configure(session, NULL), "controller");
    EXPECT(DSA_E_ARGUMENT, dsa_session_controller(session, NULL), "controller");
    EXPECT(DSA_E_ARGUMENT, dsa_session_set_prompt(session, NULL), "name");
    EXPECT(DSA_E_ARGUMENT, dsa_session_set_text(session, NULL, 1), "embeddings");
    EXPECT(DSA_E_ARGUMENT, dsa_session_where(session, NULL), "state");
    EXPECT(DSA_E_ARGUMENT, dsa_runtime_config_init(NULL, 1), "NULL");
    EXPECT(DSA_E_ARGUMENT, dsa_world_config_init(NULL, 1), "NULL");
    EXPECT(DSA_E_ARGUMENT, dsa_session_config_init(NULL, 1), "NULL");
    EXPECT(DSA_E_ARGUMENT, dsa_controller_init(NULL, 1), "NULL");
    EXPECT(DSA_E_ARGUMENT, dsa_spec_init(NULL, 1), "NULL");
    EXPECT(DSA_E_ARGUMENT, dsa_tick_init(NULL, 1), "NULL");
    EXPECT(DSA_E_ARGUMENT, dsa_session_state_init(NULL, 1), "NULL");
    CHECK(dsa_runtime_close(NULL) == DSA_OK && dsa_world_close(NULL) == DSA_OK && dsa_session_close(NULL) == DSA_OK);
    CHECK(dsa_session_cancel(session, NULL) == DSA_OK);
}

/* Each call about a session, on something that is none. */
static void no_session(dsa_session *none, const char *words)
{
    size_t bytes = 7;
    dsa_session *fork = session;
    dsa_controller controller;
    dsa_session_state state;
    CHECK(dsa_controller_init(&controller, sizeof controller) == DSA_OK);
    CHECK(dsa_session_state_init(&state, sizeof state) == DSA_OK);
    EXPECT(DSA_E_HANDLE, dsa_session_prepare(none), words);
    EXPECT(DSA_E_HANDLE, dsa_session_step(none, &action, sizeof action, 0, frame, spec.frame_bytes, &tick), words);
    EXPECT(DSA_E_HANDLE, dsa_session_step_exactly(none, &action, sizeof action, 1, 0, frame, spec.frame_bytes, &tick),
           words);
    EXPECT(DSA_E_HANDLE, dsa_session_cancel(none, NULL), words);
    EXPECT(DSA_E_HANDLE, dsa_session_reset(none, 0, NULL, 0), words);
    EXPECT(DSA_E_HANDLE, dsa_session_rewind(none, 0, NULL, 0), words);
    EXPECT(DSA_E_HANDLE, dsa_session_snapshot(none, NULL, 0, &bytes), words);
    CHECK(bytes == 0);
    EXPECT(DSA_E_HANDLE, dsa_session_restore(none, frame, 1, NULL, 0), words);
    EXPECT(DSA_E_HANDLE, dsa_session_fork(none, 1, &fork), words);
    CHECK(fork == NULL);
    EXPECT(DSA_E_HANDLE, dsa_session_configure(none, &controller), words);
    EXPECT(DSA_E_HANDLE, dsa_session_controller(none, &controller), words);
    EXPECT(DSA_E_HANDLE, dsa_session_set_prompt(none, "a storm"), words);
    EXPECT(DSA_E_HANDLE, dsa_session_set_text(none, embeddings, 1), words);
    EXPECT(DSA_E_HANDLE, dsa_session_where(none, &state), words);
    if (none != NULL) {
        EXPECT(DSA_E_HANDLE, dsa_session_close(none), words);
    }
}

static void handles(void)
{
    dsa_world *other_world;
    dsa_session *other, *again;
    no_session(NULL, "NULL");
    no_session((dsa_session *)world, "is none");
    no_session((dsa_session *)(uintptr_t)1, "is none");
    no_session((dsa_session *)~(uintptr_t)0, "is none");
    no_session((dsa_session *)(void *)&spec, "is none");
    EXPECT(DSA_E_HANDLE, dsa_world_open((dsa_runtime *)session, NULL, &other_world), "runtime");
    CHECK(other_world == NULL);
    EXPECT(DSA_E_HANDLE, dsa_world_open(NULL, NULL, &other_world), "NULL");
    EXPECT(DSA_E_HANDLE, dsa_world_spec(NULL, &spec), "NULL");
    EXPECT(DSA_E_HANDLE, dsa_session_open((dsa_world *)session, NULL, &other), "world");
    CHECK(other == NULL);

    CHECK(dsa_session_open(world, NULL, &other) == DSA_OK && dsa_session_close(other) == DSA_OK);
    no_session(other, "closed");
    CHECK(dsa_session_open(world, NULL, &again) == DSA_OK); /* in the same place of the table */
    no_session(other, "closed");
    CHECK(dsa_session_close(again) == DSA_OK);
}

static void sizes(void)
{
    dsa_session_config config;
    dsa_session *other;
    EXPECT(DSA_E_STRUCT, dsa_session_config_init(&config, sizeof config - 1), "sizeof");
    EXPECT(DSA_E_STRUCT, dsa_tick_init(&tick, 0), "sizeof");
    EXPECT(DSA_E_STRUCT, dsa_tick_init(&tick, 1u << 20), "sizeof");
    memset(&config, 0, sizeof config);
    EXPECT(DSA_E_STRUCT, dsa_session_open(world, &config, &other), "dsa_session_config_init");
    CHECK(dsa_session_config_init(&config, sizeof config) == DSA_OK);
    config.struct_size = 12; /* that of a program older than the first version */
    EXPECT(DSA_E_STRUCT, dsa_session_open(world, &config, &other), "struct_size");
    dsa_tick small = tick;
    small.struct_size = 8;
    EXPECT(DSA_E_STRUCT, dsa_session_step(session, &action, sizeof action, 0, frame, spec.frame_bytes, &small),
           "dsa_tick");

    /* A program of version 1.0, whose structs ended sooner: served, and nothing behind them is read or written. */
    const size_t config_bytes = offsetof(dsa_session_config, prompt), spec_bytes = offsetof(dsa_spec, frames_per_tick);
    CHECK(sizeof(void *) != 8 || (config_bytes == 48 && spec_bytes == 176));
    dsa_spec early_spec;
    memset(&config, 0xA5, sizeof config);
    memset(&early_spec, 0xA5, sizeof early_spec);
    CHECK(dsa_session_config_init(&config, config_bytes) == DSA_OK && config.struct_size == config_bytes);
    CHECK(dsa_session_open(world, &config, &other) == DSA_OK && dsa_session_close(other) == DSA_OK);
    CHECK(dsa_spec_init(&early_spec, spec_bytes) == DSA_OK && dsa_world_spec(world, &early_spec) == DSA_OK);
    CHECK(early_spec.frame_bytes == spec.frame_bytes && early_spec.schedule_levels == spec.schedule_levels);
    for (size_t i = config_bytes; i < sizeof config; i++) CHECK(((unsigned char *)&config)[i] == 0xA5);
    for (size_t i = spec_bytes; i < sizeof early_spec; i++) CHECK(((unsigned char *)&early_spec)[i] == 0xA5);
    config.struct_size = (uint32_t)config_bytes + 4; /* between two versions */
    EXPECT(DSA_E_STRUCT, dsa_session_open(world, &config, &other), "struct_size");

    /* A program that is newer than the library: welcome, unless it sets what is not known here. */
    struct {
        dsa_session_config config;
        uint64_t newer;
    } later;
    CHECK(dsa_session_config_init(&later.config, sizeof later) == DSA_OK);
    CHECK(later.config.struct_size == sizeof later && later.newer == 0);
    CHECK(dsa_session_open(world, &later.config, &other) == DSA_OK && dsa_session_close(other) == DSA_OK);
    later.newer = 1;
    EXPECT(DSA_E_STRUCT, dsa_session_open(world, &later.config, &other), "newer");
    struct {
        dsa_session_state state;
        uint64_t newer;
    } state;
    CHECK(dsa_session_state_init(&state.state, sizeof state) == DSA_OK);
    state.newer = 5;
    CHECK(dsa_session_where(session, &state.state) == DSA_OK);
    CHECK(state.newer == 5 && state.state.struct_size == sizeof state);
}

static void values(const char *path)
{
    dsa_session_config config;
    dsa_session *other;
    dsa_world_config world_config;
    dsa_world *other_world;
    dsa_controller controller;
    int64_t wide = 1;
    size_t bytes;

    CHECK(dsa_world_config_init(&world_config, sizeof world_config) == DSA_OK);
    world_config.world = "/nowhere/at-all";
    EXPECT(DSA_E_WORLD, dsa_world_open(runtime, &world_config, &other_world), "/nowhere/at-all");
    CHECK(other_world == NULL);
    world_config.world = path;
    if (strcmp(dsa_library_name(), "libdsa_client") == 0) { /* how worlds are loaded is the server's affair */
        world_config.quality_alpha = 0.05;
        EXPECT(DSA_E_UNSUPPORTED, dsa_world_open(runtime, &world_config, &other_world), "quality");
    } else {
        world_config.form = 9;
        EXPECT(DSA_E_WORLD, dsa_world_open(runtime, &world_config, &other_world), "form");
        world_config.form = DSA_FORM_AUTO;
        world_config.quality_alpha = 0.05;
        EXPECT(DSA_E_QUALITY, dsa_world_open(runtime, &world_config, &other_world), "quality");
    }

    CHECK(dsa_session_config_init(&config, sizeof config) == DSA_OK);
    config.on_miss = 3;
    EXPECT(DSA_E_SESSION, dsa_session_open(world, &config, &other), "on_miss");
    CHECK(dsa_controller_init(&controller, sizeof controller) == DSA_OK);
    controller.threshold = 1.5;
    config.on_miss = DSA_ON_MISS_REPEAT;
    config.controller = &controller;
    EXPECT(DSA_E_BUDGET, dsa_session_open(world, &config, &other), "threshold");
    EXPECT(DSA_E_BUDGET, dsa_session_configure(session, &controller), "threshold");
    controller.struct_size = 4;
    EXPECT(DSA_E_STRUCT, dsa_session_open(world, &config, &other), "dsa_controller");
    CHECK(dsa_session_config_init(&config, sizeof config) == DSA_OK);
    config.prompt = "a storm";
    EXPECT(DSA_E_PROMPT, dsa_session_open(world, &config, &other), "takes no text");
    CHECK(other == NULL);
    EXPECT(DSA_E_PROMPT, dsa_session_set_prompt(session, "a storm"), "takes no text");
    EXPECT(DSA_E_PROMPT, dsa_session_set_text(session, embeddings, 1), "takes no text");

    EXPECT(DSA_E_ACTION, dsa_session_step(session, &wide, sizeof wide, 0, frame, spec.frame_bytes, &tick),
           "action_bytes");
    action = 4;
    EXPECT(DSA_E_ACTION, dsa_session_step(session, &action, sizeof action, 0, frame, spec.frame_bytes, &tick), "0..3");
    action = -1;
    EXPECT(DSA_E_ACTION, dsa_session_step(session, &action, sizeof action, 0, frame, spec.frame_bytes, &tick), "0..3");
    action = 1;
    EXPECT(DSA_E_BUFFER, dsa_session_step(session, &action, sizeof action, 0, frame, spec.frame_bytes - 1, &tick),
           "192");
    EXPECT(DSA_E_BUFFER, dsa_session_reset(session, 3, frame, 0), "192");
    EXPECT(DSA_E_BUDGET, dsa_session_step_exactly(session, &action, sizeof action, 0, 0, NULL, 0, NULL), "steps");
    EXPECT(DSA_E_BUDGET, dsa_session_step_exactly(session, &action, sizeof action, 5, 0, NULL, 0, NULL), "steps");
    EXPECT(DSA_E_SESSION, dsa_session_rewind(session, 1, NULL, 0), "undo");
    EXPECT(DSA_E_SNAPSHOT, dsa_session_restore(session, frame, spec.frame_bytes, NULL, 0), "snapshot");
    EXPECT(DSA_E_BUFFER, dsa_session_snapshot(session, frame, 1, &bytes), "bytes");
    CHECK(bytes > 1);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    CHECK(strcmp(dsa_last_error(), "") == 0);
    CHECK(dsa_version() == DSA_VERSION);
    open_world(arguments[1], &runtime, &world, &spec);
    CHECK(dsa_session_open(world, NULL, &session) == DSA_OK);
    CHECK(dsa_tick_init(&tick, sizeof tick) == DSA_OK);
    frame = malloc(spec.frame_bytes); /* exactly, so that a sanitizer sees what is written beyond */
    CHECK(frame != NULL);
    memset(frame, 0xA5, spec.frame_bytes);

    nulls();
    handles();
    sizes();
    values(arguments[1]);

    CHECK(dsa_tick_init(&tick, sizeof tick) == DSA_OK);
    for (size_t i = 0; i < spec.frame_bytes; i++) CHECK(frame[i] == 0xA5); /* nothing of it has written a byte */
    CHECK(dsa_session_step(session, &action, sizeof action, DSA_BUDGET_NONE, frame, spec.frame_bytes, &tick) == DSA_OK);
    CHECK(tick.tick == 0); /* nor moved the session */

    CHECK(dsa_runtime_close(runtime) == DSA_OK);
    no_session(session, "closed");
    EXPECT(DSA_E_HANDLE, dsa_world_spec(world, &spec), "closed");
    EXPECT(DSA_E_HANDLE, dsa_world_close(world), "closed");
    EXPECT(DSA_E_HANDLE, dsa_runtime_close(runtime), "closed");
    free(frame);
    puts("ok");
    return 0;
}
