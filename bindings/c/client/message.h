/* Messages of DSA1: requests are written into a buffer that stays, replies are read where they lie. */

#ifndef DSA_MESSAGE_H
#define DSA_MESSAGE_H

#include <msgpack.h>
#include <zmq.h>

#include "../common/dsa_common.h"

enum {
    MOST_BUFFERS = 8,        /* of a message */
    HEADER_BYTES = 1 << 16,  /* most of a message's map */
    SMALL_HEADER_BYTES = 512 /* enough for requests without an action */
};

/* ---- Requests ---- */

struct request {
    const char *type;
    uint64_t id;
    const void *body; /* what goes with it, or NULL; the caller's */
    size_t body_bytes;

    /* From here on: its own affairs. */
    unsigned char *header;
    size_t bytes, capacity;
    bool too_long;
    bool posted; /* it has been sent at least once, or cannot be yet */
    double resend_at, pause_us;
    msgpack_packer packer;
};

/* False: out of memory. */
bool request_new(struct request *request, size_t capacity);
void request_free(struct request *request);

/* Begin anew, with `more` fields besides t, id, epoch and sid (0: about no session). */
void request_begin(struct request *request, const char *type, uint64_t id, uint64_t epoch, uint64_t sid, size_t more);

/* The name of a field, whose value comes next. */
void put_name(struct request *request, const char *name);
void put_text(struct request *request, const char *value);
void put_uint(struct request *request, uint64_t value);
void put_int(struct request *request, int64_t value);
void put_real(struct request *request, double value);
void put_real_or_nil(struct request *request, double value); /* nil for a negative one */
void put_bool(struct request *request, bool value);
void put_nil(struct request *request);
void put_array(struct request *request, size_t count);
void put_map(struct request *request, size_t count);
void put_float(struct request *request, float value);

/* The field `bufs` that announces the body as a buffer of that name, type of item and shape. */
void put_buffer(struct request *request, const char *name, const char *dtype, const uint64_t *shape, size_t dimensions,
                const void *body, size_t bytes);
static inline void put_snapshot(struct request *request, const void *snapshot, size_t bytes)
{
    const uint64_t shape = bytes;
    put_buffer(request, "snapshot", "u1", &shape, 1, snapshot, bytes);
}

/* Send it, without waiting. False if it cannot be sent now. */
bool request_send(const struct request *request, void *socket);

/* ---- Replies ---- */

struct reply {
    msgpack_object map; /* what it points to lives in `header` and in the zone it was read with */
    zmq_msg_t header;
    zmq_msg_t buffers[MOST_BUFFERS];
    int count;
};

/* Take the next message that has arrived. 1: there it is, to be dropped; 0: there is none; -1: one that is no message of
   DSA1, and is gone. The zone is emptied first. */
int reply_receive(struct reply *reply, void *socket, msgpack_zone *zone);
void reply_drop(struct reply *reply);

/* A field of a map; nil if it is not there or `map` is none. Fields of another type than asked for read as 0. */
const msgpack_object *get(const msgpack_object *map, const char *name);
uint64_t get_uint(const msgpack_object *map, const char *name);
int64_t get_int(const msgpack_object *map, const char *name);
double get_real(const msgpack_object *map, const char *name, double otherwise);
double as_real(const msgpack_object *value, double otherwise);
bool get_bool(const msgpack_object *map, const char *name);
bool is_text(const msgpack_object *value, const char *expected);
/* The text, cut to the size of `target`; its length. */
size_t get_text(const msgpack_object *map, const char *name, char *target, size_t size);
uint32_t length_of(const msgpack_object *array); /* 0 if it is none */
const msgpack_object *item_of(const msgpack_object *array, uint32_t index);

/* The description of the buffer `name`, or NULL. *part is its part, or NULL if it is elsewhere. */
const msgpack_object *reply_buffer(struct reply *reply, const char *name, zmq_msg_t **part);

#endif
