/* The step: an action there, a frame back, within a time if that was asked for. */

#include <string.h>

#include "client.h"

#define MOST_BUDGET_US (UINT64_C(1) << 53)
#define LEAST_WAY_US 1000.0 /* what the way may always take: a thread is not woken at once */
#define WAY_FADES (1.0 / 64)

static void build_step(struct session *session, struct request *request, const void *with)
{
    const struct wish *wish = with;
    request_begin(request, "step", channel_next_id(&session->channel), session->epoch, session->sid, 3);
    put_name(request, "action");
    put_action(request, &session->world->spec, wish->action);
    put_name(request, "steps");
    if (wish->steps) {
        put_uint(request, wish->steps);
    } else {
        put_nil(request);
    }
    put_name(request, "budget_us");
    if (wish->left_us == DSA_BUDGET_NONE) {
        put_int(request, -1);
    } else if (wish->left_us == DSA_BUDGET_PERIOD) {
        put_nil(request);
    } else {
        put_uint(request, wish->left_us < MOST_BUDGET_US ? wish->left_us : MOST_BUDGET_US);
    }
}

static int32_t one_of(const msgpack_object *value, const char *const *names, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (is_text(value, names[i])) {
            return i;
        }
    }
    return -1;
}

/* What the reply says. False if it makes no sense. */
static bool read_tick(const struct session *session, dsa_tick *tick)
{
    static const char *const STATUSES[] = {"ok", "late", "repeated", "skipped"};
    static const char *const STOPPED[] = {"", "confidence", "budget", "ceiling", "request", "deadline"};
    const msgpack_object *map = &session->reply.map, *latency = get(map, "latency_us");
    const msgpack_object *denoise = get(latency, "denoise");
    dsa_tick_init(tick, sizeof *tick);
    tick->status = one_of(get(map, "status"), STATUSES, 4);
    tick->stopped_by = one_of(get(map, "stopped_by"), STOPPED, 6);
    tick->tick = get_uint(map, "tick");
    tick->frame_tick = get_int(map, "frame_tick");
    tick->steps = (uint32_t)get_uint(map, "steps");
    tick->confidence = get_real(map, "confidence", 0);
    tick->threshold = get_real(map, "threshold", DSA_UNSET);
    int64_t budget_us = get_int(map, "budget_us");
    tick->budget_us = budget_us < 0 ? DSA_BUDGET_NONE : (uint64_t)budget_us;
    tick->credit_us = get_real(map, "credit_us", 0);
    tick->slack_us = get_real(map, "slack_us", 0);
    tick->queue_us = get_real(latency, "queue", 0);
    tick->wait_us = tick->queue_us + get_real(latency, "wait", 0);
    tick->abandoned_us = get_real(latency, "abandoned", 0);
    tick->decode_us = get_real(latency, "decode", 0);
    tick->sdk_us = get_real(latency, "sdk", 0);
    tick->total_us = get_real(latency, "total", 0);
    for (uint32_t i = 0; i < length_of(denoise); i++) {
        double cost_us = as_real(item_of(denoise, i), 0);
        tick->denoise_sum_us += cost_us;
        if (i < DSA_MOST_STEP_TIMES) {
            tick->denoise_us[i] = cost_us;
        }
    }
    return tick->status >= 0 && tick->stopped_by > 0;
}

/* The reply is there: note the tick, take its picture. Drops the reply. */
static int32_t finish(struct session *session, uint8_t *frame, dsa_tick *tick)
{
    if (!read_tick(session, tick)) {
        reply_drop(&session->reply);
        place_lose(session, true, "the session was lost to a reply that makes no sense");
        return dsa_fail(DSA_E_GONE, "%s", session->why);
    }
    int32_t status = take_frame(session, tick->frame_tick, frame, session->world->spec.tick_bytes);
    reply_drop(&session->reply);
    if (status < 0) {
        return status;
    }
    bool is_next = tick->tick == session->confirmed || tick->status == DSA_SKIPPED;
    if (tick->status != DSA_SKIPPED) {
        session->confirmed = tick->tick + 1;
        journal_note(&session->journal, session->wish.action, tick->steps);
    }
    if (session->journal.is_kept && !is_next) {
        journal_blur(&session->journal); /* a tick that went on in the background has failed there */
    }
    atomic_store(&session->tick, session->confirmed);
    if (journal_is_due(&session->journal)) {
        checkpoint_post(session);
    }
    return DSA_OK;
}

/* The newest picture instead of a tick's own. */
static void answer_stale(struct session *session, int32_t status, double started, uint64_t budget_us, uint8_t *frame,
                         dsa_tick *tick)
{
    dsa_tick_init(tick, sizeof *tick);
    tick->status = status;
    tick->tick = atomic_load(&session->tick);
    tick->frame_tick = session->newest_tick;
    tick->stopped_by = DSA_STOPPED_DEADLINE;
    tick->threshold = DSA_UNSET;
    tick->budget_us = budget_us;
    tick->wait_us = tick->total_us = dsa_now_us() - started;
    tick->slack_us = (double)budget_us - tick->total_us;
    const dsa_spec *spec = &session->world->spec;
    const uint8_t *picture = session->newest + (spec->tick_bytes - spec->frame_bytes);
    for (uint32_t i = 0; frame != NULL && i < spec->frames_per_tick; i++) {
        memcpy(frame + i * spec->frame_bytes, picture, spec->frame_bytes);
    }
}

/* The step that went on after its call: its outcome, or NOT_YET. An error is that tick's: it has not been. */
static int32_t finish_late(struct session *session, double until, enum step_kind kind)
{
    dsa_tick tick;
    int32_t status = place_do(session, &session->step, until, kind);
    if (status == DSA_OK) {
        status = finish(session, NULL, &tick);
    }
    if (status != NOT_YET) {
        session->is_late = false;
        atomic_store(&session->tick, session->confirmed);
    }
    return status;
}

int32_t settle(struct session *session) { return session->is_late ? finish_late(session, NEVER, NO_STEP) : DSA_OK; }

/* Whether the call was cancelled; then it is over. */
static bool take_stop(struct session *session)
{
    pthread_mutex_lock(&session->lock);
    session->phase = IDLE;
    bool stopped = atomic_exchange(&session->stop, false);
    pthread_mutex_unlock(&session->lock);
    session->channel.stop = NULL;
    return stopped;
}

/* A repeating session returns in time, even if the server has nothing to say. */
static double deadline_of(const struct session *session, double started, uint64_t budget_us, uint32_t steps)
{
    if (session->on_miss != DSA_ON_MISS_REPEAT || steps || budget_us == DSA_BUDGET_NONE) {
        return NEVER;
    }
    return started + (double)budget_us + 2 * fmax(session->way_us, LEAST_WAY_US);
}

static int32_t run(struct session *session, const struct dsa_step *step, dsa_tick *tick)
{
    const dsa_spec *spec = &session->world->spec;
    uint64_t budget_us = step->budget_us == DSA_BUDGET_PERIOD ? spec->period_us : step->budget_us;
    double started = step->called_us, until = deadline_of(session, started, budget_us, step->steps);
    struct wish *wish = &session->wish;
    uint64_t left_us = step->budget_us;
    if (session->is_late) {
        int32_t status = finish_late(session, until, LATE_STEP);
        if (status == NOT_YET) {
            if (take_stop(session)) {
                return dsa_fail(DSA_E_CANCELLED, "the call was cancelled while it waited for the tick before");
            }
            answer_stale(session, DSA_SKIPPED, started, budget_us, step->frame, tick);
            return DSA_SKIPPED;
        }
        if (status < 0) {
            return status;
        }
        double left = budget_us == DSA_BUDGET_NONE ? INFINITY : (double)budget_us - (dsa_now_us() - started);
        left_us = isinf(left) ? DSA_BUDGET_NONE : left < 1 ? 1 : (uint64_t)left;
    }
    memcpy(wish->action, step->action, spec->action_bytes);
    *wish = (struct wish){.action = wish->action, .steps = step->steps, .budget_us = budget_us, .left_us = left_us};
    session->step.build = build_step;
    session->step.is_built = session->was_recovered = false;
    int32_t status = place_do(session, &session->step, until, THIS_STEP);
    if (status == NOT_YET) {
        bool was_sent = session->step.is_built && session->request.posted;
        if (take_stop(session) && !was_sent) {
            return dsa_fail(DSA_E_CANCELLED, "the call was cancelled while it looked for the server");
        }
        /* Sent or not: it goes on, and the next call waits for it. */
        answer_stale(session, DSA_REPEATED, started, budget_us, step->frame, tick);
        session->is_late = true;
        atomic_store(&session->tick, session->confirmed + 1);
        return DSA_REPEATED;
    }
    if (status == DSA_OK) {
        status = finish(session, step->frame, tick);
    }
    if (status < 0) {
        return status;
    }
    tick->budget_us = budget_us;
    double call_us = dsa_now_us() - started;
    double way_us = call_us - tick->total_us;
    session->way_us = fmax(way_us, session->way_us - session->way_us * WAY_FADES);
    if (session->was_recovered) { /* which the server knows nothing of */
        session->way_us = fmin(way_us, session->way_us);
        if (tick->status == DSA_OK && budget_us != DSA_BUDGET_NONE && call_us > (double)budget_us) {
            tick->status = DSA_LATE;
            tick->slack_us = (double)budget_us - call_us;
        }
    }
    return tick->status;
}

int32_t dsa_step_run(dsa_session *handle, const struct dsa_step *step)
{
    struct session *session = NULL;
    int32_t status = session_enter(handle, &session);
    if (status < 0) {
        return status;
    }
    const dsa_spec *spec = &session->world->spec;
    status = dsa_step_check(step, spec->action_bytes, spec->tick_bytes);
    status = status == DSA_OK ? check_action(spec, step->action) : status;
    if (status == DSA_OK) {
        dsa_tick tick;
        status = run(session, step, &tick);
        take_stop(session);
        if (status >= 0) {
            dsa_step_answer(step, &tick);
        }
    }
    dsa_leave(handle);
    return status;
}

DSA_API int32_t dsa_session_cancel(dsa_session *handle, int32_t *cancelled)
{
    void *data;
    bool was_stopped = false;
    int32_t status = dsa_enter_to_stop(handle, DSA_KIND_SESSION, &data);
    if (status == DSA_OK) {
        struct session *session = data;
        pthread_mutex_lock(&session->lock);
        enum phase phase = session->phase;
        uint64_t epoch = session->epoch, sid = session->sid, asked_id = session->asked_id;
        was_stopped = phase == WAITING;
        if (was_stopped) {
            atomic_store(&session->stop, true);
        }
        pthread_mutex_unlock(&session->lock);
        if (phase == ASKING) {
            was_stopped = control_cancel(session->runtime, epoch, sid, asked_id);
        }
        dsa_leave_beside(handle);
    }
    if (cancelled != NULL) {
        *cancelled = was_stopped;
    }
    return status;
}
