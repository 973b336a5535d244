/* Heartbeat: a thread that renews the leases of sessions that are not stepped. It sleeps most of the time. */

#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <string.h>
#include <time.h>

#include "client.h"

#define PER_LEASE 4 /* so that one or two that are lost do no harm */
#define SLOWEST_US 1e9

struct round {
    struct runtime *runtime;
    double now, pause_us;
};

static void beat(void *data, void *with)
{
    struct session *session = data;
    struct round *round = with;
    if (session->runtime != round->runtime) {
        return;
    }
    pthread_mutex_lock(&session->lock);
    if (session->is_placed) {
        double lap_us = session->lease_us / PER_LEASE;
        round->pause_us = fmin(round->pause_us, lap_us);
        if (round->now - session->touched >= lap_us / 2) {
            struct heartbeat *heartbeat = &round->runtime->heartbeat;
            struct request *request = &heartbeat->request;
            request_begin(request, "ping", channel_next_id(&heartbeat->channel), session->epoch, session->sid, 0);
            request_send(request, heartbeat->channel.socket);
        }
    }
    pthread_mutex_unlock(&session->lock);
}

struct parcel {
    struct runtime *runtime;
    struct reply *reply;
};

static void deliver(void *data, void *with)
{
    struct session *session = data;
    struct parcel *parcel = with;
    if (session->runtime == parcel->runtime) {
        place_hand_over(session, parcel->reply);
    }
}

/* What has come in answer to earlier pings: of interest if a draining server gives a session back. */
static void hear(struct runtime *runtime)
{
    struct channel *channel = &runtime->heartbeat.channel;
    struct reply reply;
    for (int found; (found = reply_receive(&reply, channel->socket, &channel->zone)) != 0;) {
        if (found > 0) {
            if (reply.count > 0) {
                struct parcel parcel = {runtime, &reply};
                dsa_handles_visit(DSA_KIND_SESSION, deliver, &parcel);
            }
            reply_drop(&reply);
        }
    }
}

static void *run(void *data)
{
    struct runtime *runtime = data;
    struct heartbeat *heartbeat = &runtime->heartbeat;
    pthread_mutex_lock(&heartbeat->lock);
    while (!heartbeat->has_ended) {
        heartbeat->is_new = false;
        pthread_mutex_unlock(&heartbeat->lock);
        struct round round = {runtime, dsa_now_us(), SLOWEST_US};
        hear(runtime);
        dsa_handles_visit(DSA_KIND_SESSION, beat, &round);
        pthread_mutex_lock(&heartbeat->lock);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)(round.pause_us * 1e-6);
        until.tv_nsec += (long)(fmod(round.pause_us, 1e6) * 1e3);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        int waited = 0;
        while (!heartbeat->has_ended && !heartbeat->is_new && waited == 0) {
            waited = pthread_cond_timedwait(&heartbeat->changed, &heartbeat->lock, &until);
        }
    }
    pthread_mutex_unlock(&heartbeat->lock);
    return NULL;
}

int32_t heartbeat_open(struct heartbeat *heartbeat, const struct link *link)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&heartbeat->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&heartbeat->lock, NULL);
    if (!request_new(&heartbeat->request, SMALL_HEADER_BYTES)) {
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    return channel_open(&heartbeat->channel, link);
}

int32_t heartbeat_start(struct runtime *runtime)
{
    struct heartbeat *heartbeat = &runtime->heartbeat;
    int problem = 0;
    pthread_mutex_lock(&heartbeat->lock);
    heartbeat->is_new = true;
    pthread_cond_signal(&heartbeat->changed);
    if (!heartbeat->is_running) {
        sigset_t all, before;
        sigfillset(&all); /* the host's signals are for the host's threads */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        problem = pthread_create(&heartbeat->thread, NULL, run, runtime);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        heartbeat->is_running = problem == 0;
    }
    pthread_mutex_unlock(&heartbeat->lock);
    return problem ? dsa_fail(DSA_E_MEMORY, "no room for a thread: %s", strerror(problem)) : DSA_OK;
}

void heartbeat_close(struct heartbeat *heartbeat)
{
    if (heartbeat->request.header == NULL) {
        return; /* it never was */
    }
    pthread_mutex_lock(&heartbeat->lock);
    heartbeat->has_ended = true;
    pthread_cond_signal(&heartbeat->changed);
    bool is_running = heartbeat->is_running;
    pthread_mutex_unlock(&heartbeat->lock);
    if (is_running) {
        pthread_join(heartbeat->thread, NULL);
    }
    channel_close(&heartbeat->channel);
    request_free(&heartbeat->request);
    pthread_cond_destroy(&heartbeat->changed);
    pthread_mutex_destroy(&heartbeat->lock);
}
