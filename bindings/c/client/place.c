/* Place: a session's place at a server, and what is asked there. */

#include <stdio.h>

#include "client.h"

#define CLOSE_US 1000000.0 /* what is not closed by then ends with its lease */

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
        int32_t status = session->is_placed ? DSA_OK : place_find(session, until);
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
