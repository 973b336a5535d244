/* Messages: written by msgpack-c into our own memory, read by it into a zone that is kept. */

#include "message.h"

#include <stdlib.h>
#include <string.h>

static const char MAGIC[4] = {'D', 'S', 'A', '1'};

static int append(void *data, const char *bytes, size_t count)
{
    struct request *request = data;
    if (count > request->capacity - request->bytes) {
        request->too_long = true;
        return -1;
    }
    memcpy(request->header + request->bytes, bytes, count);
    request->bytes += count;
    return 0;
}

bool request_new(struct request *request, size_t capacity)
{
    *request = (struct request){.capacity = capacity, .header = malloc(capacity)};
    return request->header != NULL;
}

void request_free(struct request *request) { free(request->header); }

void request_begin(struct request *request, const char *type, uint64_t id, uint64_t epoch, uint64_t sid, size_t more)
{
    request->type = type;
    request->id = id;
    request->body = NULL;
    request->body_bytes = request->bytes = 0;
    request->posted = request->too_long = false;
    msgpack_packer_init(&request->packer, request, append);
    put_map(request, 4 + more);
    put_name(request, "t");
    put_text(request, type);
    put_name(request, "id");
    put_uint(request, id);
    put_name(request, "epoch");
    put_uint(request, epoch);
    put_name(request, "sid");
    if (sid) {
        put_uint(request, sid);
    } else {
        put_nil(request);
    }
}

void put_name(struct request *request, const char *name) { put_text(request, name); }

void put_text(struct request *request, const char *value)
{
    msgpack_pack_str_with_body(&request->packer, value, strlen(value));
}

void put_uint(struct request *request, uint64_t value) { msgpack_pack_uint64(&request->packer, value); }

void put_int(struct request *request, int64_t value) { msgpack_pack_int64(&request->packer, value); }

void put_real(struct request *request, double value) { msgpack_pack_double(&request->packer, value); }

void put_float(struct request *request, float value) { msgpack_pack_float(&request->packer, value); }

void put_nil(struct request *request) { msgpack_pack_nil(&request->packer); }

void put_array(struct request *request, size_t count) { msgpack_pack_array(&request->packer, count); }

void put_map(struct request *request, size_t count) { msgpack_pack_map(&request->packer, count); }

void put_real_or_nil(struct request *request, double value)
{
    if (value < 0) {
        put_nil(request);
    } else {
        put_real(request, value);
    }
}

void put_bool(struct request *request, bool value)
{
    if (value) {
        msgpack_pack_true(&request->packer);
    } else {
        msgpack_pack_false(&request->packer);
    }
}

void put_buffer(struct request *request, const char *name, const char *dtype, const uint64_t *shape, size_t dimensions,
                const void *body, size_t bytes)
{
    put_name(request, "bufs");
    put_array(request, 1);
    put_map(request, 5);
    put_name(request, "n");
    put_text(request, name);
    put_name(request, "d");
    put_text(request, dtype);
    put_name(request, "s");
    put_array(request, dimensions);
    for (size_t i = 0; i < dimensions; i++) {
        put_uint(request, shape[i]);
    }
    put_name(request, "at");
    put_text(request, "part");
    put_name(request, "enc");
    put_text(request, "raw");
    request->body = body;
    request->body_bytes = bytes;
}

bool request_send(const struct request *request, void *socket)
{
    if (zmq_send(socket, MAGIC, sizeof MAGIC, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
        return false;
    }
    /* Once the first part is taken, the others are. */
    int more = request->body == NULL ? 0 : ZMQ_SNDMORE;
    bool sent = zmq_send(socket, request->header, request->bytes, ZMQ_DONTWAIT | more) >= 0;
    if (sent && more) {
        sent = zmq_send(socket, request->body, request->body_bytes, ZMQ_DONTWAIT) >= 0;
    }
    return sent;
}

void reply_drop(struct reply *reply)
{
    for (int i = 0; i < reply->count; i++) {
        zmq_msg_close(&reply->buffers[i]);
    }
    reply->count = 0;
    zmq_msg_close(&reply->header);
}

static bool read_map(struct reply *reply, msgpack_zone *zone)
{
    size_t bytes = zmq_msg_size(&reply->header), read = 0;
    if (bytes > HEADER_BYTES) {
        return false;
    }
    msgpack_zone_clear(zone);
    return msgpack_unpack(zmq_msg_data(&reply->header), bytes, &read, zone, &reply->map) == MSGPACK_UNPACK_SUCCESS &&
           reply->map.type == MSGPACK_OBJECT_MAP;
}

int reply_receive(struct reply *reply, void *socket, msgpack_zone *zone)
{
    bool good = true;
    int index = 0, more = 1;
    reply->count = 0;
    zmq_msg_init(&reply->header);
    for (; more; index++) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            zmq_msg_close(&reply->header);
            return 0; /* only the first part can be missing */
        }
        more = zmq_msg_more(&part);
        if (index == 0) {
            good = zmq_msg_size(&part) == sizeof MAGIC && !memcmp(zmq_msg_data(&part), MAGIC, sizeof MAGIC);
        } else if (index == 1 && good) {
            zmq_msg_move(&reply->header, &part);
            good = read_map(reply, zone);
        } else if (good && reply->count < MOST_BUFFERS) {
            zmq_msg_init(&reply->buffers[reply->count]);
            zmq_msg_move(&reply->buffers[reply->count++], &part);
        } else {
            good = false;
        }
        zmq_msg_close(&part);
    }
    if (!good || index < 2) {
        reply_drop(reply);
        return -1;
    }
    return 1;
}

const msgpack_object *get(const msgpack_object *map, const char *name)
{
    static const msgpack_object nil = {.type = MSGPACK_OBJECT_NIL};
    if (map->type == MSGPACK_OBJECT_MAP) {
        for (uint32_t i = 0; i < map->via.map.size; i++) {
            if (is_text(&map->via.map.ptr[i].key, name)) {
                return &map->via.map.ptr[i].val;
            }
        }
    }
    return &nil;
}

uint64_t get_uint(const msgpack_object *map, const char *name)
{
    const msgpack_object *value = get(map, name);
    return value->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? value->via.u64 : 0;
}

int64_t get_int(const msgpack_object *map, const char *name)
{
    const msgpack_object *value = get(map, name);
    if (value->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
        return value->via.i64;
    }
    return value->type == MSGPACK_OBJECT_POSITIVE_INTEGER && value->via.u64 <= INT64_MAX ? (int64_t)value->via.u64 : 0;
}

double as_real(const msgpack_object *value, double otherwise)
{
    switch (value->type) {
    case MSGPACK_OBJECT_POSITIVE_INTEGER: return (double)value->via.u64;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER: return (double)value->via.i64;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64: return value->via.f64;
    default: return otherwise;
    }
}

double get_real(const msgpack_object *map, const char *name, double otherwise)
{
    return as_real(get(map, name), otherwise);
}

bool get_bool(const msgpack_object *map, const char *name)
{
    const msgpack_object *value = get(map, name);
    return value->type == MSGPACK_OBJECT_BOOLEAN && value->via.boolean;
}

bool is_text(const msgpack_object *value, const char *expected)
{
    size_t length = strlen(expected);
    return value->type == MSGPACK_OBJECT_STR && value->via.str.size == length &&
           !memcmp(value->via.str.ptr, expected, length);
}

/* How many bytes of UTF-8 begin here; 0 if these are none, or a sign that has no place in a line of text. */
static size_t letter_at(const unsigned char *text, size_t left)
{
    if (text[0] < 0x80) {
        return text[0] >= 0x20 && text[0] != 0x7f;
    }
    size_t bytes = text[0] >= 0xc2 && text[0] < 0xe0 ? 2 : text[0] >= 0xe0 && text[0] < 0xf0 ? 3 : 4;
    if (text[0] < 0xc2 || text[0] > 0xf4 || bytes > left) {
        return 0;
    }
    for (size_t i = 1; i < bytes; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool is_longer_than_need_be = (text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xf0 && text[1] < 0x90);
    bool is_none = (text[0] == 0xed && text[1] >= 0xa0) || (text[0] == 0xf4 && text[1] >= 0x90);
    return is_longer_than_need_be || is_none ? 0 : bytes;
}

size_t get_text(const msgpack_object *map, const char *name, char *target, size_t size)
{
    const msgpack_object *value = get(map, name);
    size_t length = value->type == MSGPACK_OBJECT_STR ? value->via.str.size : 0;
    length = length < size ? length : size - 1;
    if (length) {
        memcpy(target, value->via.str.ptr, length);
    }
    target[length] = '\0';
    for (size_t at = 0, bytes; at < length; at += bytes) {
        bytes = letter_at((const unsigned char *)target + at, length - at);
        if (bytes == 0) {
            target[at] = '?'; /* whatever a server sends, what we say is text */
            bytes = 1;
        }
    }
    return length;
}

uint32_t length_of(const msgpack_object *array)
{
    return array->type == MSGPACK_OBJECT_ARRAY ? array->via.array.size : 0;
}

const msgpack_object *item_of(const msgpack_object *array, uint32_t index) { return &array->via.array.ptr[index]; }

const msgpack_object *reply_buffer(struct reply *reply, const char *name, zmq_msg_t **part)
{
    const msgpack_object *all = get(&reply->map, "bufs");
    int next = 0;
    for (uint32_t i = 0; i < length_of(all); i++) {
        bool here = is_text(get(item_of(all, i), "at"), "part");
        if (is_text(get(item_of(all, i), "n"), name)) {
            *part = here && next < reply->count ? &reply->buffers[next] : NULL;
            return item_of(all, i);
        }
        next += here;
    }
    return NULL;
}
