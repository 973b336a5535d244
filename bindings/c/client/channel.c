/* Channel: asking, asking again, and noticing that nobody is there. */

#include "channel.h"

#include <string.h>

#define LAP_US 250000.0            /* who has heard nothing for so long asks whether the server is there */
#define SLOWEST_RESEND_US 2000000.0
#define STOP_LAP_US 5000.0         /* how soon a wait notices that it is to stop */
#define PING_ID UINT64_MAX

enum { ZONE_BYTES = 1 << 15 };

int32_t channel_open(struct channel *channel, const struct link *link)
{
    *channel = (struct channel){.timeout_us = link->timeout_us};
    if (!request_new(&channel->ping, SMALL_HEADER_BYTES)) {
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    if (!msgpack_zone_init(&channel->zone, ZONE_BYTES)) {
        request_free(&channel->ping);
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    int32_t status = link_socket(link, &channel->socket);
    if (status < 0) {
        msgpack_zone_destroy(&channel->zone);
        request_free(&channel->ping);
    }
    return status;
}

void channel_close(struct channel *channel)
{
    if (channel->socket == NULL) {
        return;
    }
    zmq_close(channel->socket);
    msgpack_zone_destroy(&channel->zone);
    request_free(&channel->ping);
    channel->socket = NULL;
}

uint64_t channel_next_id(struct channel *channel) { return ++channel->newest_id; }

void channel_post(struct channel *channel, struct request *request)
{
    double now = dsa_now_us();
    request->posted = true;
    request->pause_us = LAP_US;
    request->resend_at = request_send(request, channel->socket) ? now + LAP_US : now;
    channel->silent_us = 0;
    channel->left_at = now;
    channel->ping_at = now + LAP_US;
}

static void resend(struct channel *channel, struct request *request, double now)
{
    if (request_send(request, channel->socket)) {
        request->resend_at = now + request->pause_us;
        request->pause_us = fmin(2 * request->pause_us, SLOWEST_RESEND_US);
    } else {
        request->resend_at = now + 10000; /* the queue is full: the server takes nothing */
    }
}

static void send_ping(struct channel *channel, double now)
{
    request_begin(&channel->ping, "ping", PING_ID, channel->epoch, 0, 0);
    request_send(&channel->ping, channel->socket);
    channel->ping_at = now + LAP_US;
}

/* Takes what has come. LATER if the reply is not among it. */
static enum outcome hear(struct channel *channel, const struct request *request, struct reply *reply)
{
    for (;;) {
        int found = reply_receive(reply, channel->socket, &channel->zone);
        if (found == 0) {
            return LATER;
        }
        channel->silent_us = 0; /* an answer to an earlier request is a sign of life as well */
        if (found < 0) {
            continue;
        }
        uint64_t id = get_uint(&reply->map, "id");
        if (is_text(get(&reply->map, "t"), "handover")) {
            if (channel->handover != NULL) {
                channel->handover(channel->with, reply);
            }
        } else if (id == request->id || id == PING_ID) {
            /* What the epoch before was told may come late: it says nothing about this one. */
            bool restarted = is_text(get(&reply->map, "code"), "epoch");
            if (restarted && get_uint(&reply->map, "epoch") != channel->epoch) {
                reply_drop(reply);
                return RESTARTED;
            }
            if (id == request->id) {
                return ANSWERED;
            }
        }
        reply_drop(reply);
    }
}

static void wait_until(struct channel *channel, double until)
{
    double left_us = until - dsa_now_us();
    if (left_us > 0) {
        zmq_pollitem_t item = {.socket = channel->socket, .events = ZMQ_POLLIN};
        zmq_poll(&item, 1, (long)ceil(left_us / 1000)); /* whatever wakes it, a signal too, is looked at anew */
    }
}

enum outcome channel_ask(struct channel *channel, struct request *request, double until, struct reply *reply)
{
    double now = dsa_now_us();
    if (!request->posted) {
        channel_post(channel, request);
    }
    /* The time that a caller spends elsewhere is silence only as far as it would have been noticed. */
    channel->silent_us += fmin(now - channel->left_at, LAP_US / 2);
    enum outcome outcome;
    for (double before = now;; before = now) {
        outcome = hear(channel, request, reply);
        if (outcome != LATER) {
            break;
        }
        now = dsa_now_us();
        channel->silent_us += now - before;
        if (channel->silent_us >= channel->timeout_us) {
            outcome = SILENT;
            break;
        }
        if (now >= until || (channel->stop != NULL && atomic_load(channel->stop))) {
            break;
        }
        if (now >= request->resend_at) {
            resend(channel, request, now);
        }
        if (now >= channel->ping_at && channel->epoch) {
            send_ping(channel, now);
        }
        double wake = fmin(fmin(until, request->resend_at), now + channel->timeout_us - channel->silent_us);
        wake = fmin(wake, channel->epoch ? channel->ping_at : NEVER);
        wait_until(channel, channel->stop == NULL ? wake : fmin(wake, now + STOP_LAP_US));
    }
    channel->left_at = dsa_now_us();
    return outcome;
}
