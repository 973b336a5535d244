/* Sessions: made, opened, asked about, closed. */

#include <stdlib.h>
#include <string.h>

#include "client.h"

#define CHECKPOINT_S 10.0 /* a recovery then takes some seconds at most; a snapshot costs about as much as a tick */

enum { MOST_CHECKPOINT_TICKS = 1 << 20, PLACE_BYTES = 2048 };

/* ---- Making one ---- */

static bool allocate(struct session *session, uint64_t seed, uint32_t every)
{
    const dsa_spec *spec = &session->world->spec;
    size_t bytes = PLACE_BYTES + 5 * (size_t)spec->action_count; /* a number takes at most 5 */
    size_t longest = 0;
    for (uint32_t i = 0; i < spec->prompt_count; i++) {
        size_t length = strlen(spec->prompts[i]);
        longest = length > longest ? length : longest;
    }
    bytes += longest;
    session->wish.action = malloc(spec->action_bytes);
    session->newest = session->on_miss == DSA_ON_MISS_REPEAT ? calloc(1, spec->tick_bytes) : NULL;
    return session->wish.action != NULL && (session->newest != NULL || session->on_miss != DSA_ON_MISS_REPEAT) &&
           request_new(&session->request, bytes) && request_new(&session->place_request, bytes) &&
           request_new(&session->small_request, SMALL_HEADER_BYTES) &&
           journal_new(&session->journal, seed, every, spec->action_bytes);
}

/* DSA_OK, or why the session cannot begin with that prompt, which may be NULL. */
static int32_t begin_with(struct session *session, const char *name)
{
    const dsa_spec *spec = &session->world->spec;
    uint32_t index;
    int32_t status = name == NULL ? DSA_OK : check_name(spec, name, &index);
    if (status == DSA_OK && name != NULL) {
        journal_begin_with(&session->journal, prompt_new(spec, index, 0));
        status = session->journal.prompt == NULL ? DSA_E_MEMORY : DSA_OK;
    }
    return status;
}

static void handed_over(void *with, struct reply *reply) { place_hand_over(with, reply); }

struct session *session_new(struct world *world, dsa_world *world_handle, const dsa_session_config *config,
                            const dsa_controller *controller)
{
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        dsa_fail(DSA_E_MEMORY, "out of memory");
        return NULL;
    }
    session->runtime = world->runtime;
    session->world = world;
    session->world_handle = world_handle;
    session->history = config->history;
    session->lease_ms = config->lease_ms;
    session->on_miss = config->on_miss;
    session->recover = config->recover != 0;
    session->newest_tick = -1;
    atomic_init(&session->tick, 0);
    atomic_init(&session->seed, config->seed);
    dsa_controller_init(&session->controller, sizeof session->controller);
    if (controller != NULL) {
        session->controller = *controller;
        session->has_controller = true;
    }
    pthread_mutex_init(&session->lock, NULL);
    zmq_msg_init(&session->handed);
    zmq_msg_init(&session->journal.snapshot);
    uint32_t every = config->checkpoint_ticks;
    if (every == 0) {
        every = (uint32_t)fmin(fmax(CHECKPOINT_S * 1e6 / (double)world->spec.period_us, 1), MOST_CHECKPOINT_TICKS);
    }
    bool good = allocate(session, config->seed, session->recover ? every : 0);
    if (!good) {
        dsa_fail(DSA_E_MEMORY, "out of memory");
    } else {
        good = channel_open(&session->channel, &world->runtime->link) == DSA_OK;
    }
    if (!good) {
        session_free(session);
        return NULL;
    }
    session->channel.handover = handed_over;
    session->channel.with = session;
    session->step.with = &session->wish;
    return session;
}

void session_free(struct session *session)
{
    if (session->channel.socket != NULL) {
        place_leave(session);
        channel_close(&session->channel);
    }
    ring_detach(&session->ring);
    journal_free(&session->journal);
    request_free(&session->request);
    request_free(&session->place_request);
    request_free(&session->small_request);
    zmq_msg_close(&session->handed);
    pthread_mutex_destroy(&session->lock);
    free(session->wish.action);
    free(session->newest);
    free(session);
}

/* ---- What calls have in common ---- */

int32_t session_enter(dsa_session *handle, struct session **session)
{
    void *data;
    int32_t status = dsa_enter(handle, DSA_KIND_SESSION, &data);
    if (status == DSA_OK) {
        *session = data;
    }
    return status;
}

int32_t session_enter_settled(dsa_session *handle, struct session **session)
{
    int32_t status = session_enter(handle, session);
    if (status == DSA_OK) {
        status = settle(*session);
        if (status < 0) {
            dsa_leave(handle);
        }
    }
    return status;
}

int32_t session_ask(struct session *session, job_build build, const void *with, bool is_move)
{
    struct job job = {.build = build, .with = with, .is_move = is_move};
    return place_do(session, &job, NEVER, NO_STEP);
}

static void build_ping(struct session *session, struct request *request, const void *with)
{
    (void)with;
    request_begin(request, "ping", channel_next_id(&session->channel), session->epoch, session->sid, 0);
}

int32_t session_ping(struct session *session)
{
    int32_t status = session_ask(session, build_ping, NULL, false);
    if (status == DSA_OK) {
        reply_drop(&session->reply);
    }
    return status;
}

int32_t take_frame(struct session *session, int64_t frame_tick, uint8_t *frame, size_t bytes)
{
    /* At the end, so that its last picture is the newest one, of however many. */
    uint8_t *kept = session->newest == NULL ? NULL : session->newest + (session->world->spec.tick_bytes - bytes);
    zmq_msg_t *part = NULL;
    const msgpack_object *told = reply_buffer(&session->reply, "frame", &part);
    uint8_t *target = kept == NULL ? frame : kept;
    bool good = told != NULL && is_text(get(told, "d"), "u1");
    if (good && part != NULL) {
        good = is_text(get(told, "enc"), "raw") || get(told, "enc")->type == MSGPACK_OBJECT_NIL;
        good = good && zmq_msg_size(part) == bytes;
        if (good && target != NULL) {
            memcpy(target, zmq_msg_data(part), bytes);
        }
    } else if (good) {
        good = ring_read(&session->ring, get_uint(told, "slot"), get_uint(told, "seq"), target, bytes);
    }
    if (!good) {
        place_lose(session, true, "the session was lost to a reply without its picture");
        return dsa_fail(DSA_E_GONE, "%s", session->why);
    }
    session->newest_tick = frame_tick;
    if (kept != NULL && frame != NULL) {
        memcpy(frame, kept, bytes);
    }
    return DSA_OK;
}

/* ---- Opening ---- */

static int32_t take_config(const dsa_session_config *given, dsa_session_config *config, dsa_controller *controller)
{
    int32_t status = DSA_TAKE(dsa_session_config, config, given);
    if (status == DSA_OK && (config->on_miss < DSA_ON_MISS_BEST_EFFORT || config->on_miss > DSA_ON_MISS_ERROR)) {
        status = dsa_fail(DSA_E_SESSION, "on_miss: expected DSA_ON_MISS_BEST_EFFORT, _REPEAT or _ERROR, got %d",
                          (int)config->on_miss);
    }
    if (status == DSA_OK && config->checkpoint_ticks > MOST_CHECKPOINT_TICKS) {
        status = dsa_fail(DSA_E_ARGUMENT, "checkpoint_ticks: must not exceed %d", MOST_CHECKPOINT_TICKS);
    }
    status = status == DSA_OK ? DSA_TAKE(dsa_controller, controller, config->controller) : status;
    return status == DSA_OK ? check_controller(controller) : status;
}

static int32_t settle_in(struct session *session)
{
    int32_t status = session_ping(session);
    double before = dsa_now_us();
    if (status == DSA_OK) {
        status = session_ping(session); /* this one's way there and back is the first that is known */
    }
    if (status == DSA_OK) {
        session->way_us = dsa_now_us() - before;
        status = heartbeat_start(session->runtime);
    }
    return status;
}

DSA_API int32_t dsa_session_open(dsa_world *world, const dsa_session_config *config, dsa_session **handle)
{
    if (handle == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "session: NULL");
    }
    *handle = NULL;
    dsa_session_config ours;
    dsa_controller controller;
    void *data;
    int32_t status = take_config(config, &ours, &controller);
    if (status == DSA_OK) {
        status = dsa_enter(world, DSA_KIND_WORLD, &data);
    }
    if (status < 0) {
        return status;
    }
    struct session *session = session_new(data, world, &ours, ours.controller == NULL ? NULL : &controller);
    status = session == NULL ? DSA_E_MEMORY : begin_with(session, ours.prompt);
    status = status == DSA_OK ? settle_in(session) : status;
    if (status == DSA_OK) {
        *handle = dsa_handle_new(DSA_KIND_SESSION, world, session);
        status = *handle == NULL ? DSA_E_MEMORY : DSA_OK;
    }
    if (status < 0 && session != NULL) {
        session_free(session);
    }
    dsa_leave(world);
    return status;
}
