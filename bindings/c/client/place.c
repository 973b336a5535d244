/* Place: a session's place at a server. Finds it a new one if that is lost and it is to recover. */

#define _DEFAULT_SOURCE

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

#define PAUSE_US 50000.0   /* between two attempts to find a new place */
#define CLOSE_US 1000000.0 /* what is not closed by then ends with its lease */
#define STOP_LAP_US 5000.0

static void set_phase(struct session *session, enum phase phase)
{
    pthread_mutex_lock(&session->lock);
    session->phase = phase;
    session->asked_id = session->request.id;
    pthread_mutex_unlock(&session->lock);
    session->channel.stop = phase == WAITING ? &session->stop : NULL;
}

/* Behind the phase of a step: the call ends, or goes on without being stopped. */
static bool is_stopped(const struct session *session) { return atomic_load(&session->stop); }

void place_hand_over(struct session *session, struct reply *reply)
{
    zmq_msg_t *part = NULL;
    reply_buffer(reply, "snapshot", &part);
    pthread_mutex_lock(&session->lock);
    bool is_ours = session->sid && get_uint(&reply->map, "sid") == session->sid &&
                   get_uint(&reply->map, "epoch") == session->epoch;
    if (part != NULL && is_ours) {
        zmq_msg_move(&session->handed, part);
        session->is_handed = true;
        session->handed_tick = get_uint(&reply->map, "tick");
    }
    pthread_mutex_unlock(&session->lock);
}

/* Of a recovery. The journal's beginning is not to be older than need be. */
static void use_handed(struct session *session, bool is_certain)
{
    struct journal *journal = &session->journal;
    pthread_mutex_lock(&session->lock);
    /* One that came unasked may show the world after a request whose reply was never seen. */
    if (session->is_handed && journal->is_kept && (is_certain || session->handed_tick == session->confirmed)) {
        session->confirmed = session->handed_tick;
        journal_checkpoint(journal, &session->handed);
        session->controller_changed = false;
    }
    session->is_handed = false;
    pthread_mutex_unlock(&session->lock);
}

void place_lose(struct session *session, bool is_held, const char *why)
{
    pthread_mutex_lock(&session->lock);
    if (is_held && session->sid) {
        session->left_epoch = session->epoch;
        session->left_sid = session->sid;
    }
    session->is_placed = false;
    session->sid = 0;
    pthread_mutex_unlock(&session->lock);
    snprintf(session->why, sizeof session->why, "%s", why);
    session->checkpoint_posted = session->is_asking = false;
    session->stage = AT_HELLO;
    session->lost_at = dsa_now_us();
    session->pause_until = 0;
    if (!session->journal.is_kept) {
        session->is_lost = true;
    } else if (!session->journal.is_exact) {
        session->is_lost = true;
        snprintf(session->why, sizeof session->why,
                 "the session was lost before it was known what a tick answered by DSA_REPEATED came to");
    }
    runtime_log(session->runtime, DSA_LOG_WARNING, "session: %s", session->why);
}

static int32_t gone(const struct session *session) { return dsa_fail(DSA_E_GONE, "%s", session->why); }

bool random_number(uint64_t *number) { return getentropy(number, sizeof *number) == 0; }

/* ---- Finding a place ---- */

static void build_open(struct session *session, struct request *request, uint64_t id)
{
    const char *const ON_MISS[] = {"best_effort", "repeat", "raise"};
    request_begin(request, "open", id, session->channel.epoch, 0, 8);
    put_name(request, "key");
    put_uint(request, session->key);
    put_name(request, "world");
    put_text(request, session->world->spec.name);
    put_name(request, "seed");
    put_uint(request, session->journal.seed);
    put_name(request, "on_miss");
    put_text(request, ON_MISS[session->on_miss]);
    put_name(request, "history");
    put_uint(request, session->history);
    put_name(request, "frames");
    put_text(request, session->use_shm ? "shm" : "part");
    put_name(request, "lease_ms");
    if (session->lease_ms) {
        put_uint(request, session->lease_ms);
    } else {
        put_nil(request);
    }
    put_name(request, "controller");
    if (session->has_controller) {
        put_controller(request, &session->controller);
    } else {
        put_nil(request);
    }
}

/* False: no random numbers. */
static bool build_stage(struct session *session)
{
    struct request *request = &session->place_request;
    struct channel *channel = &session->channel;
    struct journal *journal = &session->journal;
    uint64_t id = channel_next_id(channel);
    switch (session->stage) {
    case AT_HELLO: build_hello(channel, request); break;
    case AT_OPEN:
        if (session->left_sid && session->left_epoch == channel->epoch) { /* it was silent only */
            request_begin(&session->small_request, "close", channel_next_id(channel), channel->epoch, session->left_sid, 0);
            request_send(&session->small_request, channel->socket);
        }
        session->left_sid = 0;
        if (!random_number(&session->key)) {
            return false;
        }
        build_open(session, request, id);
        break;
    case AT_FRAMES:
        request_begin(request, "configure", id, channel->epoch, session->sid, 1);
        put_name(request, "frames");
        put_text(request, session->use_shm ? "shm" : "part");
        break;
    case AT_RESTORE:
        request_begin(request, "restore", id, channel->epoch, session->sid, 1);
        put_snapshot(request, zmq_msg_data(&journal->snapshot), zmq_msg_size(&journal->snapshot));
        break;
    case AT_REPLAY:
        request_begin(request, "step", id, channel->epoch, session->sid, 3);
        put_name(request, "action");
        put_action(request, &session->world->spec, journal->actions + session->replayed * journal->action_bytes);
        put_name(request, "steps");
        put_uint(request, journal->steps[session->replayed]);
        put_name(request, "budget_us");
        put_int(request, -1);
        break;
    case AT_CONTROLLER:
        request_begin(request, "configure", id, channel->epoch, session->sid, 1);
        put_name(request, "controller");
        put_controller(request, &session->controller);
        break;
    case PLACED: break;
    }
    return true;
}

static void go_on(struct session *session, enum stage stage)
{
    const struct journal *journal = &session->journal;
    if (stage == AT_RESTORE && !(session->was_placed && journal->has_snapshot)) {
        stage = AT_REPLAY;
    }
    if (stage == AT_REPLAY && !(session->was_placed && session->replayed < journal->count)) {
        stage = AT_CONTROLLER;
    }
    if (stage == AT_CONTROLLER && !(session->was_placed && session->controller_changed)) {
        stage = PLACED;
    }
    session->stage = stage;
}

/* Use the ring that the reply tells of. If it cannot be reached, have the frames sent. */
static void attach(struct session *session, struct reply *reply)
{
    const msgpack_object *ring = get(&reply->map, "ring");
    char path[512];
    ring_detach(&session->ring);
    if (session->use_shm) {
        get_text(ring, "path", path, sizeof path);
        if (!ring_attach(&session->ring, path, get_uint(ring, "token"), session->world->spec.frame_bytes)) {
            session->use_shm = false;
            session->stage = AT_FRAMES;
            runtime_log(session->runtime, DSA_LOG_INFO, "session: no shared memory with this server; frames are sent");
            return;
        }
    }
    go_on(session, AT_RESTORE);
}

static int32_t read_stage(struct session *session)
{
    struct reply *reply = &session->reply;
    const dsa_spec *spec = &session->world->spec;
    struct welcome welcome;
    int32_t status;
    switch (session->stage) {
    case AT_HELLO:
        status = read_welcome(reply, spec->name, spec->fingerprint, &welcome);
        if (status < 0) {
            return status;
        }
        session->channel.epoch = welcome.epoch;
        int32_t frames = session->runtime->frames;
        session->use_shm =
            welcome.has_shm && (frames == DSA_FRAMES_SHM || (frames == DSA_FRAMES_AUTO && session->runtime->link.is_local));
        session->stage = AT_OPEN;
        break;
    case AT_OPEN:
        pthread_mutex_lock(&session->lock);
        session->epoch = session->channel.epoch;
        session->sid = get_uint(&reply->map, "sid");
        session->lease_us = 1000 * get_real(&reply->map, "lease_ms", 0);
        session->is_handed = false;
        pthread_mutex_unlock(&session->lock);
        session->replayed = 0;
        attach(session, reply);
        if (!session->was_placed) {
            int64_t frame_tick = -1;
            zmq_msg_t *part = NULL; /* of a ring that cannot be reached, the first picture is not to be had */
            if (reply_buffer(reply, "frame", &part) != NULL && (part != NULL || session->ring.start != NULL)) {
                return take_frame(session, frame_tick, NULL);
            }
        }
        break;
    case AT_FRAMES: attach(session, reply); break;
    case AT_RESTORE: go_on(session, AT_REPLAY); break;
    case AT_REPLAY:
        session->replayed++;
        go_on(session, AT_REPLAY);
        break;
    case AT_CONTROLLER: session->stage = PLACED; break;
    case PLACED: break;
    }
    return DSA_OK;
}

/* A pause, or as much of it as there is time for. */
static void rest(struct session *session, double until)
{
    for (double now = dsa_now_us(); now < until && !(session->channel.stop && is_stopped(session)); now = dsa_now_us()) {
        double left_us = fmin(until - now, STOP_LAP_US);
        struct timespec pause = {.tv_nsec = (long)(left_us * 1000)};
        nanosleep(&pause, NULL);
    }
}

/* Whether what the server refuses may succeed later, for one that looks for a new place. */
static bool is_passing(const struct session *session, const struct reply *reply)
{
    return session->was_placed && (has_code(reply, "epoch") || has_code(reply, "session") || has_code(reply, "busy") ||
                                   has_code(reply, "capacity") || has_code(reply, "draining"));
}

static void begin_again(struct session *session)
{
    pthread_mutex_lock(&session->lock);
    if (session->sid) { /* half made, it must not be taken for the session */
        session->left_epoch = session->epoch;
        session->left_sid = session->sid;
    }
    session->sid = 0;
    pthread_mutex_unlock(&session->lock);
    session->stage = AT_HELLO;
    session->pause_until = dsa_now_us() + PAUSE_US;
}

static void settle_in(struct session *session)
{
    pthread_mutex_lock(&session->lock);
    session->is_placed = true;
    session->touched = dsa_now_us();
    pthread_mutex_unlock(&session->lock);
    if (session->was_placed) {
        session->was_recovered = true;
        runtime_log(session->runtime, DSA_LOG_WARNING, "session: made again at tick %llu after %.0f ms, %u ticks repeated",
                    (unsigned long long)session->confirmed, (dsa_now_us() - session->lost_at) / 1000,
                    (unsigned)session->replayed);
    }
    session->was_placed = true;
}

static int32_t no_place(struct session *session, const char *why)
{
    begin_again(session);
    session->lost_at = dsa_now_us(); /* the next call tries as long again */
    return dsa_fail(DSA_E_GONE, "the session could not be made again: %s", why);
}

/* DSA_OK: the session has a place. NOT_YET. Otherwise it has none, for now. */
static int32_t find_place(struct session *session, double until)
{
    struct channel *channel = &session->channel;
    while (session->stage != PLACED) {
        rest(session, fmin(session->pause_until, until));
        if (dsa_now_us() < session->pause_until) {
            return NOT_YET;
        }
        if (!session->is_asking) {
            if (!build_stage(session)) {
                return dsa_fail(DSA_E_INTERNAL, "the system has no random numbers");
            }
            session->is_asking = true;
        }
        enum outcome outcome = channel_ask(channel, &session->place_request, until, &session->reply);
        if (outcome == LATER) {
            return NOT_YET;
        }
        session->is_asking = false;
        if (outcome == ANSWERED && !is_error(&session->reply)) {
            int32_t status = read_stage(session);
            reply_drop(&session->reply);
            if (status < 0) {
                begin_again(session);
                return status;
            }
            continue;
        }
        char why[TEXT_BYTES] = "the server has restarted";
        if (outcome == SILENT) {
            snprintf(why, sizeof why, "%.150s: no answer for %g s", session->runtime->link.address,
                     channel->timeout_us * 1e-6);
            return session->was_placed ? no_place(session, why) : dsa_fail(DSA_E_GONE, "%s", why);
        }
        if (outcome == ANSWERED) {
            get_text(&session->reply.map, "msg", why, sizeof why);
            bool passes = is_passing(session, &session->reply);
            int32_t status = refused(&session->reply);
            reply_drop(&session->reply);
            if (!session->was_placed) {
                return status;
            }
            if (!passes) {
                return no_place(session, why);
            }
        }
        if (dsa_now_us() - session->lost_at >= channel->timeout_us) {
            return no_place(session, why);
        }
        begin_again(session);
    }
    settle_in(session);
    return DSA_OK;
}

/* ---- Jobs ---- */

/* What an error says about the place: it is lost, and true, or the session is there and has only refused. */
static bool has_lost_place(struct session *session)
{
    struct reply *reply = &session->reply;
    bool drains = has_code(reply, "draining") && get_uint(&reply->map, "sid") == session->sid;
    if (!drains && !has_code(reply, "session") && !has_code(reply, "epoch")) {
        return false;
    }
    place_hand_over(session, reply);
    use_handed(session, drains);
    if (drains) { /* the server waits to hear that it has arrived */
        struct request *request = &session->small_request;
        request_begin(request, "close", channel_next_id(&session->channel), session->epoch, session->sid, 0);
        request_send(request, session->channel.socket);
    }
    char why[TEXT_BYTES];
    get_text(&reply->map, "msg", why, sizeof why);
    place_lose(session, false, why);
    return true;
}

/* The checkpoint that is under way. DSA_OK: it is there, or there is none; the place may be lost. NOT_YET. */
static int32_t collect(struct session *session, double until)
{
    if (!session->checkpoint_posted) {
        return DSA_OK;
    }
    struct reply *reply = &session->reply;
    switch (channel_ask(&session->channel, &session->small_request, until, reply)) {
    case LATER: return NOT_YET;
    case SILENT: place_lose(session, true, "the server does not answer"); return gone(session);
    case RESTARTED: place_lose(session, false, "the server has restarted"); return DSA_OK;
    case ANSWERED: break;
    }
    session->checkpoint_posted = false;
    zmq_msg_t *part = NULL;
    if (is_error(reply)) {
        has_lost_place(session);
    } else if (reply_buffer(reply, "snapshot", &part) != NULL && part != NULL) {
        journal_checkpoint(&session->journal, part);
        session->controller_changed = false;
    }
    reply_drop(reply);
    return DSA_OK;
}

int32_t place_do(struct session *session, struct job *job, double until, enum step_kind kind)
{
    enum { LIVES = 3 }; /* of the server, that one call outlives */
    for (int life = 0; life < LIVES;) {
        set_phase(session, kind == NO_STEP ? IDLE : WAITING);
        if (session->is_lost) {
            return gone(session);
        }
        int32_t status = session->is_placed ? DSA_OK : find_place(session, until);
        if (status == DSA_OK) {
            status = collect(session, until);
        }
        if (status != DSA_OK) {
            return status;
        }
        if (!session->is_placed) {
            job->is_built = false;
            life++;
            continue;
        }
        if (!job->is_built) {
            job->build(session, &session->request, job->with);
            job->is_built = true;
            if (session->request.too_long) {
                return dsa_fail(DSA_E_UNSUPPORTED, "%s: too long for a message", session->request.type);
            }
        }
        if (kind == THIS_STEP) {
            set_phase(session, ASKING);
            if (is_stopped(session)) {
                return NOT_YET;
            }
        }
        enum outcome outcome = channel_ask(&session->channel, &session->request, until, &session->reply);
        if (outcome == LATER) {
            return NOT_YET;
        }
        job->is_built = false;
        if (outcome == SILENT) {
            char why[TEXT_BYTES];
            snprintf(why, sizeof why, "%.150s: no answer to %s for %g s", session->runtime->link.address,
                     session->request.type, session->channel.timeout_us * 1e-6);
            if (!job->is_move) {
                use_handed(session, false);
            }
            place_lose(session, true, why);
            return gone(session);
        }
        if (outcome == RESTARTED) {
            if (!job->is_move) {
                use_handed(session, false);
            }
            place_lose(session, false, "the server has restarted");
            life++;
            continue;
        }
        pthread_mutex_lock(&session->lock);
        session->touched = dsa_now_us();
        pthread_mutex_unlock(&session->lock);
        if (!is_error(&session->reply)) {
            return DSA_OK;
        }
        bool is_away = has_lost_place(session);
        status = is_away ? DSA_OK : refused(&session->reply);
        reply_drop(&session->reply);
        if (!is_away) {
            return status;
        }
        life++;
    }
    return session->is_lost ? gone(session) : dsa_fail(DSA_E_GONE, "the server restarts again and again");
}

void place_leave(struct session *session)
{
    pthread_mutex_lock(&session->lock);
    bool is_placed = session->is_placed;
    session->is_placed = false;
    pthread_mutex_unlock(&session->lock);
    struct channel *channel = &session->channel;
    uint64_t sid = is_placed ? session->sid : session->left_sid;
    if (!sid || (!is_placed && session->left_epoch != channel->epoch)) {
        return;
    }
    struct request *request = &session->place_request;
    request_begin(request, "close", channel_next_id(channel), channel->epoch, sid, 0);
    channel->stop = NULL;
    if (channel_ask(channel, request, dsa_now_us() + fmin(CLOSE_US, channel->timeout_us), &session->reply) == ANSWERED) {
        reply_drop(&session->reply);
    }
}
