/* Search: a session finds its first place at a server, and a new one if that is lost and it is to recover. */

#define _DEFAULT_SOURCE

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

#define PAUSE_US 50000.0 /* between two attempts */
#define STOP_LAP_US 5000.0

bool random_number(uint64_t *number) { return getentropy(number, sizeof *number) == 0; }

static void build_open(struct session *session, struct request *request, uint64_t id)
{
    const char *const ON_MISS[] = {"best_effort", "repeat", "raise"};
    const struct prompt *prompt = session->journal.prompt;
    request_begin(request, "open", id, session->channel.epoch, 0, prompt == NULL ? 8 : 9);
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
    if (prompt != NULL) {
        put_prompt(request, &session->world->spec, prompt);
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
    case AT_PROMPT:
        request_begin(request, "prompt", id, channel->epoch, session->sid, 1);
        put_prompt(request, &session->world->spec, session->next_prompt);
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
    const struct prompt *prompt = session->next_prompt;
    if (stage == AT_REPLAY && session->was_placed && prompt != NULL && prompt->at == session->replayed) {
        stage = AT_PROMPT;
    } else if (stage == AT_REPLAY && !(session->was_placed && session->replayed < journal->count)) {
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
        if (!ring_attach(&session->ring, path, get_uint(ring, "token"), session->world->spec.tick_bytes)) {
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
        session->next_prompt = session->journal.prompts;
        attach(session, reply);
        if (!session->was_placed) {
            int64_t frame_tick = -1;
            zmq_msg_t *part = NULL; /* of a ring that cannot be reached, the first picture is not to be had */
            if (reply_buffer(reply, "frame", &part) != NULL && (part != NULL || session->ring.start != NULL)) {
                return take_frame(session, frame_tick, NULL, spec->frame_bytes);
            }
        }
        break;
    case AT_FRAMES: attach(session, reply); break;
    case AT_RESTORE: go_on(session, AT_REPLAY); break;
    case AT_REPLAY:
        session->replayed++;
        go_on(session, AT_REPLAY);
        break;
    case AT_PROMPT:
        session->next_prompt = session->next_prompt->later;
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
    for (double now = dsa_now_us(); now < until && !(session->channel.stop && atomic_load(&session->stop)); now = dsa_now_us()) {
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

int32_t place_find(struct session *session, double until)
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
