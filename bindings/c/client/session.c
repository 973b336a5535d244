/* Sessions: opening, closing, and everything but the step. */

#include <stdlib.h>
#include <string.h>

#include "client.h"

#define CHECKPOINT_S 10.0 /* a recovery then takes some seconds at most; a snapshot costs about as much as a tick */

enum { MOST_CHECKPOINT_TICKS = 1 << 20, MOST_FORKS = 1024, PLACE_BYTES = 2048, SNAPSHOT_MARGIN = 512 };

/* ---- Making one ---- */

static bool allocate(struct session *session, uint64_t seed, uint32_t every)
{
    const dsa_spec *spec = &session->world->spec;
    size_t bytes = PLACE_BYTES + 5 * (size_t)spec->action_count; /* a number takes at most 5 */
    session->wish.action = malloc(spec->action_bytes);
    session->newest = session->on_miss == DSA_ON_MISS_REPEAT ? calloc(1, spec->frame_bytes) : NULL;
    return session->wish.action != NULL && (session->newest != NULL || session->on_miss != DSA_ON_MISS_REPEAT) &&
           request_new(&session->request, bytes) && request_new(&session->place_request, bytes) &&
           request_new(&session->small_request, SMALL_HEADER_BYTES) &&
           journal_new(&session->journal, seed, every, spec->action_bytes);
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
        every = (uint32_t)fmin(fmax(CHECKPOINT_S * world->spec.fps, 1), MOST_CHECKPOINT_TICKS);
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

int32_t check_frame(const struct session *session, const uint8_t *frame, size_t bytes)
{
    size_t needed = session->world->spec.frame_bytes;
    if (frame == NULL && bytes == 0) {
        return DSA_OK;
    }
    if (frame == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "frame: NULL with frame_bytes = %zu; give 0 if the picture is not wanted", bytes);
    }
    return bytes < needed ? dsa_fail(DSA_E_BUFFER, "frame: needs %zu bytes, has %zu", needed, bytes) : DSA_OK;
}

int32_t take_frame(struct session *session, int64_t frame_tick, uint8_t *frame)
{
    size_t bytes = session->world->spec.frame_bytes;
    zmq_msg_t *part = NULL;
    const msgpack_object *told = reply_buffer(&session->reply, "frame", &part);
    uint8_t *target = session->newest == NULL ? frame : session->newest;
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
    if (session->newest != NULL && frame != NULL) {
        memcpy(frame, session->newest, bytes);
    }
    return DSA_OK;
}

static void build_snapshot(struct session *session, struct request *request, const void *with)
{
    (void)with;
    request_begin(request, "snapshot", channel_next_id(&session->channel), session->epoch, session->sid, 0);
}

void checkpoint_post(struct session *session)
{
    build_snapshot(session, &session->small_request, NULL);
    channel_post(&session->channel, &session->small_request);
    session->checkpoint_posted = true;
}

static int32_t ask(struct session *session, job_build build, const void *with, bool is_move)
{
    struct job job = {.build = build, .with = with, .is_move = is_move};
    return place_do(session, &job, NEVER, NO_STEP);
}

static int32_t ask_snapshot(struct session *session, zmq_msg_t **part)
{
    int32_t status = ask(session, build_snapshot, NULL, false);
    if (status == DSA_OK && (reply_buffer(&session->reply, "snapshot", part) == NULL || *part == NULL)) {
        reply_drop(&session->reply);
        status = dsa_fail(DSA_E_INTERNAL, "the server's reply has no snapshot");
    }
    return status;
}

static void keep_checkpoint(struct session *session, zmq_msg_t *part)
{
    if (session->journal.is_kept) {
        journal_checkpoint(&session->journal, part);
        session->controller_changed = false;
    }
}

int32_t checkpoint_now(struct session *session)
{
    zmq_msg_t *part;
    int32_t status = ask_snapshot(session, &part);
    if (status == DSA_OK) {
        keep_checkpoint(session, part);
        reply_drop(&session->reply);
    }
    return status;
}

/* Come in, and wait for a step that went on. On an error the caller is outside. */
static int32_t enter_settled(dsa_session *handle, struct session **session)
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

/* A ping is what `place_do` needs to find the first place. */
static void build_ping(struct session *session, struct request *request, const void *with)
{
    (void)with;
    request_begin(request, "ping", channel_next_id(&session->channel), session->epoch, session->sid, 0);
}

static int32_t settle_in(struct session *session)
{
    double before = dsa_now_us();
    int32_t status = ask(session, build_ping, NULL, false);
    if (status == DSA_OK) {
        reply_drop(&session->reply);
        before = dsa_now_us();
        status = ask(session, build_ping, NULL, false); /* this one's way there and back is the first that is known */
    }
    if (status == DSA_OK) {
        reply_drop(&session->reply);
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
    status = session == NULL ? DSA_E_MEMORY : settle_in(session);
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

/* ---- Going elsewhere ---- */

static void build_reset(struct session *session, struct request *request, const void *with)
{
    request_begin(request, "reset", channel_next_id(&session->channel), session->epoch, session->sid, 1);
    put_name(request, "seed");
    put_uint(request, *(const uint64_t *)with);
}

static void build_rewind(struct session *session, struct request *request, const void *with)
{
    request_begin(request, "rewind", channel_next_id(&session->channel), session->epoch, session->sid, 1);
    put_name(request, "ticks");
    put_uint(request, *(const uint32_t *)with);
}

struct bytes {
    const uint8_t *at;
    size_t count;
};

static void build_restore(struct session *session, struct request *request, const void *with)
{
    const struct bytes *snapshot = with;
    request_begin(request, "restore", channel_next_id(&session->channel), session->epoch, session->sid, 1);
    put_snapshot(request, snapshot->at, snapshot->count);
}

/* The session is elsewhere: session->reply shows where. */
static int32_t arrive(struct session *session, uint8_t *frame)
{
    const msgpack_object *map = &session->reply.map;
    session->confirmed = get_uint(map, "tick");
    atomic_store(&session->tick, session->confirmed);
    atomic_store(&session->seed, get_uint(map, "seed"));
    int32_t status = take_frame(session, (int64_t)session->confirmed - 1, frame);
    reply_drop(&session->reply);
    return status;
}

/* Come in with good arguments and go elsewhere. On an error the caller is outside. */
static int32_t move(dsa_session *handle, job_build build, const void *with, uint8_t *frame, size_t frame_bytes,
                    struct session **session)
{
    int32_t status = session_enter(handle, session);
    if (status < 0) {
        return status;
    }
    status = check_frame(*session, frame, frame_bytes);
    status = status == DSA_OK ? settle(*session) : status;
    status = status == DSA_OK ? ask(*session, build, with, true) : status;
    status = status == DSA_OK ? arrive(*session, frame) : status;
    if (status < 0) {
        dsa_leave(handle);
    }
    return status;
}

DSA_API int32_t dsa_session_reset(dsa_session *handle, uint64_t seed, uint8_t *frame, size_t frame_bytes)
{
    struct session *session = NULL;
    int32_t status = move(handle, build_reset, &seed, frame, frame_bytes, &session);
    if (status == DSA_OK) {
        journal_begin(&session->journal, seed);
        dsa_leave(handle);
    }
    return status;
}

DSA_API int32_t dsa_session_rewind(dsa_session *handle, uint32_t ticks, uint8_t *frame, size_t frame_bytes)
{
    struct session *session = NULL;
    int32_t status = move(handle, build_rewind, &ticks, frame, frame_bytes, &session);
    if (status == DSA_OK) {
        if (session->journal.is_kept && ticks > 0) {
            journal_blur(&session->journal);
            (void)checkpoint_now(session); /* if that fails, the next step's end tries again */
        }
        dsa_leave(handle);
    }
    return status;
}

/* The controller in a snapshot, whose layout is in dsa_runtime/snapshot.py. The server has found it to be whole. */
static bool read_snapshot(const struct bytes *snapshot, dsa_controller *controller)
{
    uint32_t header_bytes;
    size_t read = 0;
    if (snapshot->count < 16) {
        return false;
    }
    memcpy(&header_bytes, snapshot->at + 12, sizeof header_bytes);
    msgpack_zone zone;
    msgpack_object header;
    if (header_bytes > snapshot->count - 16 || !msgpack_zone_init(&zone, 4096)) {
        return false;
    }
    bool good = msgpack_unpack((const char *)snapshot->at + 16, header_bytes, &read, &zone, &header) ==
                MSGPACK_UNPACK_SUCCESS;
    if (good) {
        read_controller(get(&header, "controller"), controller);
    }
    msgpack_zone_destroy(&zone);
    return good;
}

DSA_API int32_t dsa_session_restore(dsa_session *handle, const uint8_t *snapshot, size_t bytes, uint8_t *frame,
                                    size_t frame_bytes)
{
    if (snapshot == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "snapshot: NULL");
    }
    struct bytes given = {snapshot, bytes};
    struct session *session = NULL;
    int32_t status = move(handle, build_restore, &given, frame, frame_bytes, &session);
    if (status < 0) {
        return status;
    }
    if (read_snapshot(&given, &session->controller)) {
        session->has_controller = true;
        session->controller_changed = false;
    }
    if (session->journal.is_kept) {
        zmq_msg_t copy;
        if (zmq_msg_init_size(&copy, bytes)) {
            journal_blur(&session->journal);
        } else {
            memcpy(zmq_msg_data(&copy), snapshot, bytes);
            journal_checkpoint(&session->journal, &copy);
            zmq_msg_close(&copy);
        }
    }
    dsa_leave(handle);
    return DSA_OK;
}

DSA_API int32_t dsa_session_snapshot(dsa_session *handle, uint8_t *buffer, size_t capacity, size_t *bytes)
{
    if (bytes == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "bytes: NULL");
    }
    *bytes = 0;
    if (buffer == NULL && capacity != 0) {
        return dsa_fail(DSA_E_ARGUMENT, "buffer: NULL, but capacity is %zu; both or neither", capacity);
    }
    struct session *session = NULL;
    zmq_msg_t *part;
    int32_t status = enter_settled(handle, &session);
    if (status < 0) {
        return status;
    }
    status = ask_snapshot(session, &part);
    if (status == DSA_OK) {
        size_t needed = zmq_msg_size(part);
        *bytes = needed;
        if (buffer == NULL) {
            *bytes += SNAPSHOT_MARGIN; /* all have the same arrays; the numbers of a header take some more or less */
        } else if (capacity < needed) {
            status = dsa_fail(DSA_E_BUFFER, "buffer: needs %zu bytes, has %zu", needed, capacity);
        } else {
            memcpy(buffer, zmq_msg_data(part), needed);
        }
        keep_checkpoint(session, part);
        reply_drop(&session->reply);
    }
    dsa_leave(handle);
    return status;
}

/* ---- Forks ---- */

struct fork {
    uint32_t count;
    uint64_t key;
};

static void build_fork(struct session *session, struct request *request, const void *with)
{
    const struct fork *fork = with;
    request_begin(request, "fork", channel_next_id(&session->channel), session->epoch, session->sid, 2);
    put_name(request, "n");
    put_uint(request, fork->count);
    put_name(request, "key");
    put_uint(request, fork->key);
}

/* A session that is at the server already. NULL: out of memory. */
static struct session *branch(struct session *from, uint64_t sid)
{
    dsa_session_config config;
    dsa_session_config_init(&config, sizeof config);
    config.on_miss = from->on_miss;
    config.seed = from->journal.seed;
    config.history = from->history;
    config.lease_ms = from->lease_ms;
    config.recover = from->recover;
    config.checkpoint_ticks = from->recover ? from->journal.every : 0;
    struct session *session =
        session_new(from->world, from->world_handle, &config, from->has_controller ? &from->controller : NULL);
    if (session == NULL) {
        return NULL;
    }
    session->confirmed = from->confirmed;
    atomic_store(&session->tick, from->confirmed);
    atomic_store(&session->seed, atomic_load(&from->seed));
    session->newest_tick = from->newest_tick;
    session->way_us = from->way_us;
    if (session->newest != NULL) {
        memcpy(session->newest, from->newest, from->world->spec.frame_bytes);
    }
    if (session->journal.is_kept) {
        zmq_msg_t shared;
        zmq_msg_init(&shared);
        zmq_msg_copy(&shared, &from->journal.snapshot);
        journal_checkpoint(&session->journal, &shared);
        zmq_msg_close(&shared);
    }
    session->channel.epoch = session->epoch = from->epoch;
    session->sid = sid;
    session->lease_us = from->lease_us;
    session->use_shm = from->use_shm;
    session->stage = session->use_shm ? AT_FRAMES : PLACED; /* their frames come as parts */
    return session;
}

static int32_t make_branches(struct session *from, uint32_t count, dsa_session **forks)
{
    const msgpack_object *sids = get(&from->reply.map, "sids");
    int32_t status = length_of(sids) == count ? DSA_OK : dsa_fail(DSA_E_INTERNAL, "the server has made other forks");
    for (uint32_t i = 0; status == DSA_OK && i < count; i++) {
        const msgpack_object *sid = item_of(sids, i);
        struct session *made = branch(from, sid->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? sid->via.u64 : 0);
        status = made == NULL ? DSA_E_MEMORY : ask(made, build_ping, NULL, false);
        if (status == DSA_OK) {
            reply_drop(&made->reply);
            forks[i] = dsa_handle_new(DSA_KIND_SESSION, from->world_handle, made);
            status = forks[i] == NULL ? DSA_E_MEMORY : DSA_OK;
        }
        if (status < 0 && made != NULL) {
            session_free(made);
        }
    }
    return status;
}

DSA_API int32_t dsa_session_fork(dsa_session *handle, uint32_t count, dsa_session **forks)
{
    if (forks == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "forks: NULL");
    }
    if (count < 1 || count > MOST_FORKS) {
        return dsa_fail(DSA_E_ARGUMENT, "count: must lie in 1..%d, got %u", MOST_FORKS, (unsigned)count);
    }
    for (uint32_t i = 0; i < count; i++) {
        forks[i] = NULL;
    }
    struct session *session = NULL;
    struct fork wanted = {.count = count};
    int32_t status = enter_settled(handle, &session);
    if (status < 0) {
        return status;
    }
    if (random_number(&wanted.key)) {
        status = session->journal.is_kept ? checkpoint_now(session) : DSA_OK; /* they begin with that, too */
        status = status == DSA_OK ? ask(session, build_fork, &wanted, false) : status;
    } else {
        status = dsa_fail(DSA_E_INTERNAL, "the system has no random numbers");
    }
    if (status == DSA_OK) {
        status = make_branches(session, count, forks);
        reply_drop(&session->reply);
        for (uint32_t i = 0; status < 0 && i < count; i++) {
            dsa_session_close(forks[i]);
            forks[i] = NULL;
        }
    }
    dsa_leave(handle);
    return status;
}

/* ---- Settings ---- */

static void build_configure(struct session *session, struct request *request, const void *with)
{
    request_begin(request, "configure", channel_next_id(&session->channel), session->epoch, session->sid, 1);
    put_name(request, "controller");
    put_controller(request, with);
}

DSA_API int32_t dsa_session_configure(dsa_session *handle, const dsa_controller *controller)
{
    if (controller == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "controller: NULL");
    }
    struct session *session = NULL;
    dsa_controller ours;
    int32_t status = DSA_TAKE(dsa_controller, &ours, controller);
    status = status == DSA_OK ? check_controller(&ours) : status;
    status = status == DSA_OK ? enter_settled(handle, &session) : status;
    if (status < 0) {
        return status;
    }
    status = ask(session, build_configure, &ours, false);
    if (status == DSA_OK) {
        reply_drop(&session->reply);
        session->controller = ours;
        session->has_controller = session->controller_changed = true;
    }
    dsa_leave(handle);
    return status;
}

DSA_API int32_t dsa_session_controller(dsa_session *handle, dsa_controller *controller)
{
    if (controller == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "controller: NULL");
    }
    struct session *session = NULL;
    int32_t status = DSA_CHECK_OUTPUT(dsa_controller, controller);
    status = status == DSA_OK ? session_enter(handle, &session) : status;
    if (status == DSA_OK) {
        dsa_copy_out(controller, &session->controller, sizeof session->controller);
        dsa_leave(handle);
    }
    return status;
}

DSA_API int32_t dsa_session_where(dsa_session *handle, dsa_session_state *state)
{
    if (state == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "state: NULL");
    }
    void *data;
    int32_t status = DSA_CHECK_OUTPUT(dsa_session_state, state);
    status = status == DSA_OK ? dsa_enter_beside(handle, DSA_KIND_SESSION, &data) : status;
    if (status == DSA_OK) {
        struct session *session = data;
        dsa_session_state ours = {
            .on_miss = session->on_miss, .tick = atomic_load(&session->tick), .seed = atomic_load(&session->seed)};
        dsa_copy_out(state, &ours, sizeof ours);
        dsa_leave_beside(handle);
    }
    return status;
}

DSA_API int32_t dsa_session_prepare(dsa_session *handle)
{
    struct session *session = NULL;
    int32_t status = enter_settled(handle, &session);
    if (status < 0) {
        return status;
    }
    /* Memory was taken when it was opened. This goes the ways of a step: there and back, and to the picture. */
    const uint32_t ticks = 0;
    const volatile char *touched = dsa_last_error(); /* this thread's own message */
    (void)*touched;
    status = ask(session, build_rewind, &ticks, false);
    status = status == DSA_OK ? arrive(session, NULL) : status;
    dsa_leave(handle);
    return status;
}
