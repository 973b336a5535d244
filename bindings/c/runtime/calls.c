/* The functions of dsa_runtime.h: check what was given, come in, ask the Python half, map what it answers. */

#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
#include <string.h>

#include "host.h"

struct runtime {
    dsa_log_function log;
    void *user;
    int32_t level;
};

struct world {
    uint64_t id; /* in the Python half */
    dsa_spec spec;
};

struct session {
    uint64_t id;
    void *world; /* handle */
    size_t frame_bytes, action_bytes;
    uint64_t period_us;
    int32_t action_type;
};

DSA_API const char *dsa_library_name(void) { return "libdsa_runtime"; }

/* ---- Answers ---- */

enum { MOST_STATUS = 127 };

/* The status in an answer of the Python half, and its message. Anything that is none is an error, 0 above all. */
static int32_t status_of(int32_t answer, const char *message)
{
    int32_t status = answer - DSA_PY_ANSWER;
    if (answer < DSA_PY_ANSWER - MOST_STATUS || answer > DSA_PY_ANSWER + MOST_STATUS) {
        return dsa_fail(DSA_E_INTERNAL, "Python did not answer; is the installed package dsa_runtime damaged?");
    }
    return status < 0 ? dsa_fail(status, "%.*s", DSA_MESSAGE_BYTES - 1, message) : status;
}

_Static_assert((int)DSA_PY_MESSAGE_BYTES == (int)DSA_MESSAGE_BYTES, "both halves have the same idea of a message");

#define ASK(call, ...) status_of(call(__VA_ARGS__, message), message)

static int32_t needs(const char *function, const char *name)
{
    return dsa_fail(DSA_E_ARGUMENT, "%s: %s must not be NULL", function, name);
}

/* ---- Logs ---- */

struct line {
    int32_t level;
    const char *message;
};

static void tell(void *data, void *with)
{
    const struct runtime *runtime = data;
    const struct line *line = with;
    if (runtime->log != NULL && line->level >= runtime->level) {
        runtime->log(runtime->user, line->level, line->message);
    }
}

void dsa_host_log(int32_t level, const char *message)
{
    struct line line = {level, message};
    dsa_handles_visit(DSA_KIND_RUNTIME, tell, &line);
}

/* ---- Ending ---- */

static void end(enum dsa_kind kind, void *data)
{
    char message[DSA_MESSAGE_BYTES]; /* of what goes wrong, Python has written to the log */
    if (kind == DSA_KIND_WORLD) {
        dsa_py_world_close(((struct world *)data)->id, message);
    } else if (kind == DSA_KIND_SESSION) {
        dsa_py_session_close(((struct session *)data)->id, message);
    }
    free(data);
}

/* ---- Runtime ---- */

DSA_API int32_t dsa_runtime_open(const dsa_runtime_config *config, dsa_runtime **runtime)
{
    if (runtime == NULL) {
        return needs("dsa_runtime_open", "runtime");
    }
    *runtime = NULL;
    dsa_runtime_config ours;
    int32_t status = DSA_TAKE(dsa_runtime_config, &ours, config);
    if (status < 0) {
        return status;
    }
    if (dsa_is_forked()) {
        return dsa_fail(DSA_E_FORKED, "this process was forked after dsa_runtime_open; open it after forking instead");
    }
    status = dsa_python_start(ours.python);
    if (status < 0) {
        return status;
    }
    dsa_notice_forks();
    struct runtime *data = malloc(sizeof *data);
    if (data == NULL) {
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    *data = (struct runtime){ours.log, ours.log_user, ours.log_level};
    dsa_runtime *made = dsa_handle_new(DSA_KIND_RUNTIME, NULL, data);
    if (made == NULL) {
        free(data);
        return DSA_E_MEMORY;
    }
    char message[DSA_MESSAGE_BYTES];
    status = ASK(dsa_py_runtime_open, ours.log == NULL ? INT32_MAX : ours.log_level);
    if (status < 0) {
        dsa_handle_close(made, DSA_KIND_RUNTIME, end);
        return status;
    }
    *runtime = made;
    return DSA_OK;
}

DSA_API int32_t dsa_runtime_close(dsa_runtime *runtime) { return dsa_handle_close(runtime, DSA_KIND_RUNTIME, end); }

/* ---- World ---- */

static int32_t open_world(void *runtime, const dsa_world_config *config, dsa_world **world)
{
    struct world *data = calloc(1, sizeof *data);
    if (data == NULL) {
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    char message[DSA_MESSAGE_BYTES];
    int32_t status = ASK(dsa_py_world_open, config, &data->id, &data->spec);
    if (status < 0) {
        free(data);
        return status;
    }
    *world = dsa_handle_new(DSA_KIND_WORLD, runtime, data);
    if (*world == NULL) {
        end(DSA_KIND_WORLD, data);
        return DSA_E_MEMORY;
    }
    return DSA_OK;
}

DSA_API int32_t dsa_world_open(dsa_runtime *runtime, const dsa_world_config *config, dsa_world **world)
{
    if (world == NULL) {
        return needs("dsa_world_open", "world");
    }
    *world = NULL;
    dsa_world_config ours;
    void *data;
    int32_t status = DSA_TAKE(dsa_world_config, &ours, config);
    if (status == DSA_OK) {
        status = dsa_enter(runtime, DSA_KIND_RUNTIME, &data);
    }
    if (status == DSA_OK) {
        status = open_world(runtime, &ours, world);
        dsa_leave(runtime);
    }
    return status;
}

DSA_API int32_t dsa_world_close(dsa_world *world) { return dsa_handle_close(world, DSA_KIND_WORLD, end); }

DSA_API int32_t dsa_world_spec(dsa_world *world, dsa_spec *spec)
{
    if (spec == NULL) {
        return needs("dsa_world_spec", "spec");
    }
    void *data;
    int32_t status = DSA_CHECK_OUTPUT(dsa_spec, spec);
    if (status == DSA_OK) {
        status = dsa_enter(world, DSA_KIND_WORLD, &data);
    }
    if (status == DSA_OK) {
        dsa_copy_out(spec, &((struct world *)data)->spec, sizeof *spec);
        dsa_leave(world);
    }
    return status;
}

/* ---- Session ---- */

/* A handle for a session of the Python half; closes that where there is no room for one. */
static int32_t adopt(const struct session *like, uint64_t id, dsa_session **session)
{
    struct session *data = malloc(sizeof *data);
    if (data != NULL) {
        *data = *like;
        data->id = id;
        *session = dsa_handle_new(DSA_KIND_SESSION, like->world, data);
        if (*session != NULL) {
            return DSA_OK;
        }
        free(data);
    }
    char message[DSA_MESSAGE_BYTES];
    dsa_py_session_close(id, message);
    return dsa_fail(DSA_E_MEMORY, "no room for one more session");
}

static int32_t open_session(void *handle, const struct world *world, const dsa_session_config *config,
                            dsa_session **session)
{
    dsa_controller controller;
    int32_t status = DSA_TAKE(dsa_controller, &controller, config->controller);
    if (status < 0) {
        return status;
    }
    char message[DSA_MESSAGE_BYTES];
    const dsa_spec *spec = &world->spec;
    struct session like = {0, handle, spec->frame_bytes, spec->action_bytes, spec->period_us, spec->action_type};
    uint64_t id;
    status = ASK(dsa_py_session_open, world->id, config, &controller, &id);
    return status < 0 ? status : adopt(&like, id, session);
}

DSA_API int32_t dsa_session_open(dsa_world *world, const dsa_session_config *config, dsa_session **session)
{
    if (session == NULL) {
        return needs("dsa_session_open", "session");
    }
    *session = NULL;
    dsa_session_config ours;
    void *data;
    int32_t status = DSA_TAKE(dsa_session_config, &ours, config);
    if (status == DSA_OK) {
        status = dsa_enter(world, DSA_KIND_WORLD, &data);
    }
    if (status == DSA_OK) {
        status = open_session(world, data, &ours, session);
        dsa_leave(world);
    }
    return status;
}

DSA_API int32_t dsa_session_close(dsa_session *session) { return dsa_handle_close(session, DSA_KIND_SESSION, end); }

/* DSA_OK if a frame of the session's world fits, or is not wanted. */
static int32_t check_frame(const struct session *session, const uint8_t *frame, size_t frame_bytes)
{
    if (frame == NULL && frame_bytes != 0) {
        return dsa_fail(DSA_E_ARGUMENT, "frame: NULL, but frame_bytes is %zu; both or neither", frame_bytes);
    }
    if (frame != NULL && frame_bytes < session->frame_bytes) {
        return dsa_fail(DSA_E_BUFFER, "frame_bytes: a frame has %zu, got %zu", session->frame_bytes, frame_bytes);
    }
    return DSA_OK;
}

static int32_t check_action(const struct session *session, const void *action, size_t action_bytes)
{
    if (action == NULL) {
        return needs("dsa_session_step", "action");
    }
    if (action_bytes != session->action_bytes) {
        return dsa_fail(DSA_E_ACTION, "action_bytes: an action of this world has %zu, got %zu", session->action_bytes,
                        action_bytes);
    }
    return DSA_OK;
}

/* From the Python half's milliseconds, and what it leaves out. */
static void complete(dsa_tick *tick, const struct session *session, int32_t status, uint64_t budget_us)
{
    double *times[] = {&tick->credit_us, &tick->slack_us, &tick->wait_us, &tick->abandoned_us,
                       &tick->decode_us, &tick->sdk_us,   &tick->total_us};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        *times[i] *= 1000.0;
    }
    for (size_t i = 0; i < DSA_MOST_STEP_TIMES; i++) {
        tick->denoise_us[i] *= 1000.0;
    }
    tick->denoise_sum_us = tick->total_us - tick->wait_us - tick->abandoned_us - tick->decode_us - tick->sdk_us;
    tick->status = status;
    tick->budget_us = budget_us == DSA_BUDGET_PERIOD ? session->period_us : budget_us;
    if (budget_us == DSA_BUDGET_NONE) {
        tick->slack_us = 0;
    }
}

/* steps 0: the controller's choice. */
static int32_t step(dsa_session *handle, const void *action, size_t action_bytes, uint64_t budget_us, uint32_t steps,
                    uint8_t *frame, size_t frame_bytes, dsa_tick *tick)
{
    double called_us = dsa_now_us();
    void *data;
    int32_t status = tick == NULL ? DSA_OK : DSA_CHECK_OUTPUT(dsa_tick, tick);
    if (status < 0 || (status = dsa_enter(handle, DSA_KIND_SESSION, &data)) < 0) {
        return status;
    }
    const struct session *session = data;
    status = check_frame(session, frame, frame_bytes);
    if (status == DSA_OK) {
        status = check_action(session, action, action_bytes);
    }
    if (status == DSA_OK) {
        char message[DSA_MESSAGE_BYTES];
        dsa_tick ours;
        dsa_tick_init(&ours, sizeof ours);
        int32_t index = 0;
        if (session->action_type == DSA_DISCRETE) {
            memcpy(&index, action, sizeof index);
        }
        status = ASK(dsa_py_session_step, session->id, index, action, budget_us, steps, frame,
                     tick == NULL ? NULL : &ours);
        if (status >= 0 && tick != NULL) {
            complete(&ours, session, status, budget_us);
            ours.call_us = dsa_now_us() - called_us;
            dsa_copy_out(tick, &ours, sizeof ours);
        }
    }
    dsa_leave(handle);
    return status;
}

DSA_API int32_t dsa_session_step(dsa_session *session, const void *action, size_t action_bytes, uint64_t budget_us,
                                 uint8_t *frame, size_t frame_bytes, dsa_tick *tick)
{
    return step(session, action, action_bytes, budget_us, 0, frame, frame_bytes, tick);
}

DSA_API int32_t dsa_session_step_exactly(dsa_session *session, const void *action, size_t action_bytes, uint32_t steps,
                                         uint64_t budget_us, uint8_t *frame, size_t frame_bytes, dsa_tick *tick)
{
    if (steps == 0) {
        return dsa_fail(DSA_E_BUDGET, "steps: must be at least 1, got 0");
    }
    return step(session, action, action_bytes, budget_us, steps, frame, frame_bytes, tick);
}

DSA_API int32_t dsa_session_cancel(dsa_session *handle, int32_t *cancelled)
{
    void *data;
    int32_t ours = 0, status = dsa_enter_beside(handle, DSA_KIND_SESSION, &data);
    if (status == DSA_OK) {
        char message[DSA_MESSAGE_BYTES];
        status = ASK(dsa_py_session_cancel, ((struct session *)data)->id, &ours);
        dsa_leave_beside(handle);
    }
    if (cancelled != NULL) {
        *cancelled = ours;
    }
    return status;
}

/* Inside a session: `call` with `session`, `message` and what else is in scope. */
#define INSIDE(handle, call)                                      \
    do {                                                          \
        void *data;                                               \
        status = dsa_enter((handle), DSA_KIND_SESSION, &data);    \
        if (status == DSA_OK) {                                   \
            const struct session *session = data;                 \
            char message[DSA_MESSAGE_BYTES];                      \
            status = (call);                                      \
            dsa_leave(handle);                                    \
        }                                                         \
    } while (0)

#define WITH_FRAME(call) (status = check_frame(session, frame, frame_bytes)) < 0 ? status : (call)

DSA_API int32_t dsa_session_prepare(dsa_session *handle)
{
    int32_t status;
    INSIDE(handle, ASK(dsa_py_session_prepare, session->id));
    return status;
}

DSA_API int32_t dsa_session_reset(dsa_session *handle, uint64_t seed, uint8_t *frame, size_t frame_bytes)
{
    int32_t status;
    INSIDE(handle, WITH_FRAME(ASK(dsa_py_session_reset, session->id, seed, frame)));
    return status;
}

DSA_API int32_t dsa_session_rewind(dsa_session *handle, uint32_t ticks, uint8_t *frame, size_t frame_bytes)
{
    int32_t status;
    INSIDE(handle, WITH_FRAME(ASK(dsa_py_session_rewind, session->id, ticks, frame)));
    return status;
}

DSA_API int32_t dsa_session_snapshot(dsa_session *handle, uint8_t *buffer, size_t capacity, size_t *bytes)
{
    if (bytes == NULL) {
        return needs("dsa_session_snapshot", "bytes");
    }
    *bytes = 0;
    if (buffer == NULL && capacity != 0) {
        return dsa_fail(DSA_E_ARGUMENT, "buffer: NULL, but capacity is %zu; both or neither", capacity);
    }
    int32_t status;
    INSIDE(handle, ASK(dsa_py_session_snapshot, session->id, buffer, capacity, bytes));
    return status;
}

DSA_API int32_t dsa_session_restore(dsa_session *handle, const uint8_t *snapshot, size_t bytes, uint8_t *frame,
                                    size_t frame_bytes)
{
    if (snapshot == NULL) {
        return needs("dsa_session_restore", "snapshot");
    }
    int32_t status;
    INSIDE(handle, WITH_FRAME(ASK(dsa_py_session_restore, session->id, snapshot, bytes, frame)));
    return status;
}

/* All of them, or none: what was made before one failed is closed again. */
static int32_t adopt_all(const struct session *like, uint32_t count, const uint64_t *ids, dsa_session **forks)
{
    int32_t status = DSA_OK;
    for (uint32_t i = 0; i < count; i++) {
        char message[DSA_MESSAGE_BYTES];
        if (status == DSA_OK) {
            status = adopt(like, ids[i], &forks[i]);
        } else {
            dsa_py_session_close(ids[i], message);
        }
    }
    for (uint32_t i = 0; status < 0 && i < count; i++) {
        dsa_session_close(forks[i]);
        forks[i] = NULL;
    }
    return status;
}

DSA_API int32_t dsa_session_fork(dsa_session *handle, uint32_t count, dsa_session **forks)
{
    if (forks == NULL) {
        return needs("dsa_session_fork", "forks");
    }
    if (count < 1 || count > 65536) {
        return dsa_fail(DSA_E_ARGUMENT, "count: must lie in 1..65536, got %u", (unsigned)count);
    }
    for (uint32_t i = 0; i < count; i++) {
        forks[i] = NULL;
    }
    uint64_t *ids = calloc(count, sizeof *ids);
    if (ids == NULL) {
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    int32_t status;
    INSIDE(handle, (status = ASK(dsa_py_session_fork, session->id, count, ids)) < 0
                       ? status
                       : adopt_all(session, count, ids, forks));
    free(ids);
    return status;
}

DSA_API int32_t dsa_session_configure(dsa_session *handle, const dsa_controller *controller)
{
    if (controller == NULL) {
        return needs("dsa_session_configure", "controller");
    }
    dsa_controller ours;
    int32_t status = DSA_TAKE(dsa_controller, &ours, controller);
    if (status == DSA_OK) {
        INSIDE(handle, ASK(dsa_py_session_configure, session->id, &ours));
    }
    return status;
}

DSA_API int32_t dsa_session_controller(dsa_session *handle, dsa_controller *controller)
{
    if (controller == NULL) {
        return needs("dsa_session_controller", "controller");
    }
    dsa_controller ours;
    dsa_controller_init(&ours, sizeof ours);
    int32_t status = DSA_CHECK_OUTPUT(dsa_controller, controller);
    if (status == DSA_OK) {
        INSIDE(handle, ASK(dsa_py_session_controller, session->id, &ours));
    }
    if (status == DSA_OK) {
        dsa_copy_out(controller, &ours, sizeof ours);
    }
    return status;
}

DSA_API int32_t dsa_session_where(dsa_session *handle, dsa_session_state *state)
{
    if (state == NULL) {
        return needs("dsa_session_where", "state");
    }
    dsa_session_state ours;
    dsa_session_state_init(&ours, sizeof ours);
    int32_t status = DSA_CHECK_OUTPUT(dsa_session_state, state);
    if (status == DSA_OK) {
        INSIDE(handle, ASK(dsa_py_session_where, session->id, &ours));
    }
    if (status == DSA_OK) {
        dsa_copy_out(state, &ours, sizeof ours);
    }
    return status;
}
