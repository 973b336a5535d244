/* Channel: one socket to a server, on which requests are asked until they are answered. One thread at a time. */

#ifndef DSA_CHANNEL_H
#define DSA_CHANNEL_H

#include <math.h>
#include <stdatomic.h>

#include "link.h"
#include "message.h"

#define NEVER INFINITY

enum outcome {
    ANSWERED,  /* by a reply, which may be an error; to be dropped */
    LATER,     /* not yet; ask again with the same request */
    SILENT,    /* nothing was heard for the link's timeout: whether it has run is not known */
    RESTARTED, /* the server is another one than that of the channel's epoch: it has not run there */
};

struct channel {
    void *socket;
    uint64_t epoch;            /* of the server that is asked; set by whoever has said hello */
    const _Atomic bool *stop;  /* while it is true, `channel_ask` returns LATER; NULL: never */
    void (*handover)(void *with, struct reply *reply); /* for what a draining server sends unasked; may be NULL */
    void *with;

    /* From here on: its own affairs. */
    msgpack_zone zone;
    struct request ping;
    uint64_t newest_id;
    double timeout_us, silent_us, left_at, ping_at;
};

/* DSA_E_START or DSA_E_MEMORY. */
int32_t channel_open(struct channel *channel, const struct link *link);
void channel_close(struct channel *channel);

/* Ids of a channel grow, as those of a session's requests must. */
uint64_t channel_next_id(struct channel *channel);

/* Send a request whose reply `channel_ask` is to fetch later. */
void channel_post(struct channel *channel, struct request *request);

/* Ask until there is a reply, or until `until` (on dsa_now_us). The request is sent again, with the same id, now and then. */
enum outcome channel_ask(struct channel *channel, struct request *request, double until, struct reply *reply);

#endif
