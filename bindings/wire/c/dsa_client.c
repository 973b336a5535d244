// A client of `dsa serve` in one file of C11: libzmq, msgpack-c and POSIX.
//
//     cc -O2 -std=c11 dsa_client.c -o dsa_client -lzmq -lmsgpackc     (-lmsgpack-c from its release 6.0 on)
//     ./dsa_client tcp://127.0.0.1:5577
//
// The client is the part above "The example". To use it in a program of yours, compile this file along with
// -DDSA_NO_EXAMPLE and copy the declarations, or include it in one of your files:
//
//     #define DSA_NO_EXAMPLE
//     #include "dsa_client.c"

#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <msgpack.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

// --- The client ------------------------------------------------------------------------------------------------------

enum { DSA_MOST_BUFFERS = 8 };

typedef enum {
    DSA_OK,
    DSA_SILENT,     // no answer in time, however often it was asked: the server is down, frozen or restarting
    DSA_RESTARTED,  // the server does not know this session: it has restarted, is about to, or the lease ran out
    DSA_REFUSED,    // any other error of the server; `error` has its message
} DsaResult;  // after DSA_SILENT and DSA_RESTARTED, call dsa_recover

typedef enum { DSA_DISCRETE, DSA_MULTI_BINARY, DSA_BOX } DsaActionType;

typedef struct {
    char name[128];
    int height, width;  // of a picture, uint8[height][width][3], RGB
    int frames_per_tick;  // pictures that a tick draws: 1 in most worlds
    int64_t period_us;  // between two ticks at the native rate
    DsaActionType action;
    size_t count;       // choices of a Discrete, otherwise values in an action
    double *low, *high; // bounds of a Box's values, NULL otherwise
} DsaWorld;

typedef struct {
    const char *world;   // NULL for the server's first one
    uint64_t seed;
    bool shared_memory;  // frames by shared memory: only on the server's own machine
    const char *prompt;  // name of one of the world's prompts; NULL for its first, and in worlds that take no text
} DsaOptions;

typedef struct {
    uint64_t tick;
    int64_t frame_tick;  // the tick whose frame `pixels` is: an earlier one if `status` is repeated or skipped
    char status[16];     // "ok", "late", "repeated" or "skipped"
    int steps;           // denoising steps that it took
    double confidence;
} DsaFrame;

typedef struct {
    DsaWorld world;
    uint64_t tick;          // index of the next tick
    const uint8_t *pixels;  // the newest picture, uint8[height][width][3]; valid until the next call
    const uint8_t *frames;  // all pictures of the newest tick, oldest first, uint8[pictures][height][width][3]; the last
    int pictures;           // is `pixels`. world.frames_per_tick of them; 1 that no tick made: after open and restore
    char error[512];        // what the newest call that failed has to say

    int timeout_ms;         // an unanswered request is sent again after this time,
    int tries;              // so often in all. Sending again is safe: a request that has run is answered, not run again

    uint8_t *snapshot;      // the newest one, and the tick that it was taken at; NULL before the first
    size_t snapshot_bytes;
    uint64_t snapshot_tick;

    void *context, *socket; // from here on: the client's own affairs
    uint64_t epoch, sid, id;
    char *world_asked, *prompt_asked;
    DsaOptions options;
    zmq_msg_t frame;
    uint8_t *copied;
    const uint8_t *ring;
    size_t ring_bytes;
    bool retry;             // whether the newest error says that asking later may help
} DsaClient;

// Connects and says hello. The keys are Z85 text, NULL for a server without encryption. All calls return a DsaResult.
DsaResult dsa_connect(DsaClient *client, const char *address, const char *server_key, const char *public_key,
                      const char *secret_key);
// Opens a session; `pixels` is then the picture that it starts from, `world` is filled in.
DsaResult dsa_open(DsaClient *client, const DsaOptions *options);
// One tick. action: one value for a Discrete, otherwise world.count of them. budget_us: 0 for a native period, -1 for
// none. steps: exactly this many denoising steps; 0 to leave it to the world's controller.
DsaResult dsa_step(DsaClient *client, const double *action, int64_t budget_us, int steps, DsaFrame *frame);
// Takes the session's state into `snapshot`.
DsaResult dsa_snapshot(DsaClient *client);
// Goes on from `snapshot`.
DsaResult dsa_restore(DsaClient *client);
// Keeps the session's lease alive while it is not stepped.
DsaResult dsa_ping(DsaClient *client);
// Says hello, opens and restores until that succeeds or `patience_ms` is over. Without a snapshot the session starts
// anew.
DsaResult dsa_recover(DsaClient *client, int patience_ms);
// Closes the session, if one is open, and the connection.
void dsa_close(DsaClient *client);

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static DsaResult fail(DsaClient *client, DsaResult result, const char *message) {
    snprintf(client->error, sizeof client->error, "%s", message);
    return result;
}

// What a map of a message holds. A missing or ill-typed field reads as 0 or as an empty text.

static const msgpack_object *get(const msgpack_object *map, const char *name) {
    static const msgpack_object nil = {.type = MSGPACK_OBJECT_NIL};
    if (map->type != MSGPACK_OBJECT_MAP) return &nil;
    for (uint32_t i = 0; i < map->via.map.size; i++) {
        const msgpack_object *key = &map->via.map.ptr[i].key;
        if (key->type == MSGPACK_OBJECT_STR && key->via.str.size == strlen(name) &&
            !memcmp(key->via.str.ptr, name, key->via.str.size))
            return &map->via.map.ptr[i].val;
    }
    return &nil;
}

static const msgpack_object *item(const msgpack_object *array, uint32_t index) {
    return &array->via.array.ptr[index];
}

static uint32_t length(const msgpack_object *array) {
    return array->type == MSGPACK_OBJECT_ARRAY ? array->via.array.size : 0;
}

static uint64_t whole(const msgpack_object *value) {
    return value->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? value->via.u64 : 0;
}

static double real(const msgpack_object *value) {
    switch (value->type) {
        case MSGPACK_OBJECT_POSITIVE_INTEGER: return (double)value->via.u64;
        case MSGPACK_OBJECT_NEGATIVE_INTEGER: return (double)value->via.i64;
        case MSGPACK_OBJECT_FLOAT32:
        case MSGPACK_OBJECT_FLOAT64: return value->via.f64;
        default: return 0;
    }
}

static void text(const msgpack_object *value, char *target, size_t size) {
    bool is_text = value->type == MSGPACK_OBJECT_STR;
    snprintf(target, size, "%.*s", is_text ? (int)value->via.str.size : 0, is_text ? value->via.str.ptr : "");
}

static bool is(const msgpack_object *value, const char *expected) {
    return value->type == MSGPACK_OBJECT_STR && value->via.str.size == strlen(expected) &&
           !memcmp(value->via.str.ptr, expected, value->via.str.size);
}

// Messages.

typedef struct {
    zmq_msg_t packed;  // the header's texts stay in here
    msgpack_unpacked header;
    const msgpack_object *map;
    zmq_msg_t buffers[DSA_MOST_BUFFERS];
    int count;
} Reply;

static void drop(Reply *reply) {
    for (int i = 0; i < reply->count; i++) zmq_msg_close(&reply->buffers[i]);
    reply->count = 0;
    msgpack_unpacked_destroy(&reply->header);
    zmq_msg_close(&reply->packed);
}

static void put(msgpack_packer *packer, const char *value) {
    msgpack_pack_str_with_body(packer, value, strlen(value));
}

// Begins a request with `more` fields besides these four.
static void begin(DsaClient *client, msgpack_sbuffer *header, msgpack_packer *packer, const char *type, int more) {
    msgpack_sbuffer_init(header);
    msgpack_packer_init(packer, header, msgpack_sbuffer_write);
    msgpack_pack_map(packer, 4 + (size_t)more);
    put(packer, "t"), put(packer, type);
    put(packer, "id"), msgpack_pack_uint64(packer, ++client->id);
    put(packer, "epoch"), msgpack_pack_uint64(packer, client->epoch);
    put(packer, "sid"), msgpack_pack_uint64(packer, client->sid);
}

// Receives one message that has arrived. False if it is none of DSA1.
static bool receive(DsaClient *client, Reply *reply) {
    zmq_msg_t part;
    bool good = true;
    int index = 0, more = 1;
    reply->count = 0;
    msgpack_unpacked_init(&reply->header);
    zmq_msg_init(&reply->packed);
    for (; more; index++) {
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, client->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            good = false;
            break;
        }
        more = zmq_msg_more(&part);
        if (index == 0) good = zmq_msg_size(&part) == 4 && !memcmp(zmq_msg_data(&part), "DSA1", 4);
        if (index == 1 && good) {
            zmq_msg_move(&reply->packed, &part);
            const char *packed = zmq_msg_data(&reply->packed);
            msgpack_unpack_return found =
                msgpack_unpack_next(&reply->header, packed, zmq_msg_size(&reply->packed), NULL);
            good = found == MSGPACK_UNPACK_SUCCESS && reply->header.data.type == MSGPACK_OBJECT_MAP;
        }
        if (index >= 2 && good && reply->count < DSA_MOST_BUFFERS) {
            zmq_msg_init(&reply->buffers[reply->count]);
            zmq_msg_move(&reply->buffers[reply->count++], &part);
        }
        zmq_msg_close(&part);
    }
    if (!good || index < 2) return drop(reply), false;
    reply->map = &reply->header.data;
    return true;
}

// The description of the buffer `name`; *part is its part, or NULL if it is elsewhere.
static const msgpack_object *buffer(Reply *reply, const char *name, zmq_msg_t **part) {
    const msgpack_object *all = get(reply->map, "bufs");
    int next = 0;
    for (uint32_t i = 0; i < length(all); i++) {
        bool here = is(get(item(all, i), "at"), "part");
        if (is(get(item(all, i), "n"), name)) {
            *part = here && next < reply->count ? &reply->buffers[next] : NULL;
            return item(all, i);
        }
        next += here;
    }
    return NULL;
}

static void keep_snapshot(DsaClient *client, Reply *reply) {
    zmq_msg_t *part;
    if (!buffer(reply, "snapshot", &part) || !part) return;
    size_t size = zmq_msg_size(part);
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) return;
    memcpy(copy, zmq_msg_data(part), size);
    free(client->snapshot);
    client->snapshot = copy;
    client->snapshot_bytes = size;
    client->snapshot_tick = whole(get(reply->map, "tick"));
}

// Sends a request. False if it would have to wait.
static bool post(DsaClient *client, const msgpack_sbuffer *header, const void *body, size_t bytes) {
    if (zmq_send(client->socket, "DSA1", 4, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) return false;
    zmq_send(client->socket, header->data, header->size, ZMQ_DONTWAIT | (body ? ZMQ_SNDMORE : 0));
    if (body) zmq_send(client->socket, body, bytes, ZMQ_DONTWAIT);
    return true;
}

// Says `close` to a server that has handed the session back: it does not stop before it knows that this has arrived.
static void give_up_session(DsaClient *client) {
    msgpack_sbuffer header;
    msgpack_packer packer;
    begin(client, &header, &packer, "close", 0);
    post(client, &header, NULL, 0);
    msgpack_sbuffer_destroy(&header);
    client->sid = 0;
}

// What an error means for the caller.
static DsaResult refused(DsaClient *client, Reply *reply) {
    char code[32], message[400];
    text(get(reply->map, "code"), code, sizeof code);
    text(get(reply->map, "msg"), message, sizeof message);
    snprintf(client->error, sizeof client->error, "%s: %s", code, message);
    const msgpack_object *retry = get(reply->map, "retry");
    client->retry = retry->type == MSGPACK_OBJECT_BOOLEAN && retry->via.boolean;
    if (!strcmp(code, "draining") && client->sid && whole(get(reply->map, "sid")) == client->sid) {
        keep_snapshot(client, reply);
        give_up_session(client);
    }
    bool gone = !strcmp(code, "epoch") || !strcmp(code, "session") || !strcmp(code, "draining");
    return gone ? DSA_RESTARTED : DSA_REFUSED;
}

// Waits until the socket can be read or written. False if it cannot be until then.
static bool ready(DsaClient *client, short events, int64_t until) {
    for (int64_t left = until - now_us(); left > 0; left = until - now_us()) {
        zmq_pollitem_t item = {.socket = client->socket, .events = events};
        if (zmq_poll(&item, 1, (long)(left / 1000) + 1) > 0) return true;  // not so after a signal
    }
    return false;
}

// Sends the request and waits for its reply, which the caller then drops. Frees the header.
static DsaResult exchange(DsaClient *client, msgpack_sbuffer *header, const void *body, size_t bytes, Reply *reply) {
    DsaResult result = fail(client, DSA_SILENT, "no answer from the server");
    for (int attempt = 0; attempt < client->tries && result == DSA_SILENT; attempt++) {
        int64_t until = now_us() + (int64_t)client->timeout_ms * 1000;
        if (!ready(client, ZMQ_POLLOUT, until)) continue;  // not connected: nothing piles up meanwhile
        if (!post(client, header, body, bytes)) continue;
        while (result == DSA_SILENT && ready(client, ZMQ_POLLIN, until)) {
            if (!receive(client, reply)) continue;
            if (whole(get(reply->map, "id")) == client->id)
                result = is(get(reply->map, "t"), "error") ? refused(client, reply) : DSA_OK;
            else if (is(get(reply->map, "t"), "handover") && whole(get(reply->map, "sid")) == client->sid)
                keep_snapshot(client, reply);
            if (result != DSA_OK) drop(reply);  // also an answer to an earlier request, which came late
        }
    }
    msgpack_sbuffer_destroy(header);
    return result;
}

static size_t picture_bytes(const DsaWorld *world) { return (size_t)world->height * (size_t)world->width * 3; }

// Lets `frames` and `pixels` point at what the reply has brought.
static DsaResult show(DsaClient *client, const uint8_t *frames, int pictures) {
    client->frames = frames;
    client->pictures = pictures;
    client->pixels = frames + (size_t)(pictures - 1) * picture_bytes(&client->world);
    return DSA_OK;
}

// Takes so many pictures that the reply brings or announces.
static DsaResult take_frame(DsaClient *client, Reply *reply, int pictures) {
    size_t expected = (size_t)pictures * picture_bytes(&client->world);
    zmq_msg_t *part;
    const msgpack_object *found = buffer(reply, "frame", &part);
    if (found && part && zmq_msg_size(part) == expected) {
        zmq_msg_move(&client->frame, part);
        return show(client, zmq_msg_data(&client->frame), pictures);
    }
    if (!found || part || !client->ring)
        return fail(client, DSA_REFUSED, "a reply without a picture of the world's size");
    // The ring's layout is in PROTOCOL.md. The copy counts if the slot had the same number before and after.
    uint64_t seq = whole(get(found, "seq")), stride, size;
    memcpy(&stride, client->ring + 24, 8);
    uint64_t start = 64 + whole(get(found, "slot")) * stride;
    if (start + 64 + expected > client->ring_bytes) return fail(client, DSA_REFUSED, "a slot outside of the ring");
    const _Atomic uint64_t *number = (const _Atomic uint64_t *)(client->ring + start);
    memcpy(&size, client->ring + start + 8, 8);
    bool same = seq && size == expected && atomic_load_explicit(number, memory_order_acquire) == seq;
    if (same) memcpy(client->copied, client->ring + start + 64, expected);
    atomic_thread_fence(memory_order_acquire);
    if (!same || atomic_load_explicit(number, memory_order_relaxed) != seq)
        return fail(client, DSA_RESTARTED, "the frame is no longer in shared memory");
    return show(client, client->copied, pictures);
}

static void unmap(DsaClient *client) {
    if (client->ring) munmap((void *)client->ring, client->ring_bytes);
    free(client->copied);
    client->ring = NULL;
    client->copied = NULL;
}

static DsaResult map_ring(DsaClient *client, const msgpack_object *ring) {
    char path[512];
    struct stat found;
    uint64_t token, stride, capacity;
    uint32_t slots;
    unmap(client);
    text(get(ring, "path"), path, sizeof path);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &found) || found.st_size < 64) {
        if (file >= 0) close(file);
        return fail(client, DSA_REFUSED, "shared memory: cannot open the ring; is the server on this machine?");
    }
    client->ring_bytes = (size_t)found.st_size;
    void *start = mmap(NULL, client->ring_bytes, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (start == MAP_FAILED) return fail(client, DSA_REFUSED, "shared memory: cannot map the ring");
    client->ring = start;
    memcpy(&slots, client->ring + 12, 4);
    memcpy(&token, client->ring + 16, 8);
    memcpy(&stride, client->ring + 24, 8);
    memcpy(&capacity, client->ring + 32, 8);
    size_t bytes = (size_t)client->world.frames_per_tick * picture_bytes(&client->world);
    bool good = !memcmp(client->ring, "DSARING\n\1\0\0\0", 12) && token == whole(get(ring, "token")) &&
                capacity >= bytes && stride % 64 == 0 && stride >= capacity + 64 && slots >= 2 &&
                stride <= (client->ring_bytes - 64) / slots;
    client->copied = good ? malloc(bytes) : NULL;
    return client->copied ? DSA_OK : fail(client, DSA_REFUSED, "shared memory: not the ring that was announced");
}

static DsaResult take_world(DsaClient *client, Reply *reply) {
    const msgpack_object *spec = get(reply->map, "spec");
    const msgpack_object *frame = get(spec, "frame"), *space = get(spec, "action_space");
    DsaWorld *world = &client->world;
    free(world->low), free(world->high);
    *world = (DsaWorld){.height = (int)whole(get(frame, "height")), .width = (int)whole(get(frame, "width")),
                        .frames_per_tick = (int)whole(get(frame, "frames_per_tick"))};
    text(get(reply->map, "world"), world->name, sizeof world->name);
    double fps = real(get(frame, "fps"));
    world->period_us = fps > 0 ? (int64_t)(1e6 * world->frames_per_tick / fps) : 0;
    const msgpack_object *low = get(space, "low"), *high = get(space, "high");
    world->action = is(get(space, "type"), "Discrete") ? DSA_DISCRETE : length(low) ? DSA_BOX : DSA_MULTI_BINARY;
    world->count = length(low) ? length(low) : whole(get(space, "n"));
    if (length(low)) {
        world->low = calloc(world->count, sizeof(double)), world->high = calloc(world->count, sizeof(double));
        for (uint32_t i = 0; world->low && world->high && i < length(low) && i < length(high); i++)
            world->low[i] = real(item(low, i)), world->high[i] = real(item(high, i));
    }
    bool good = world->height > 0 && world->width > 0 && world->period_us > 0 && world->count;
    return good ? DSA_OK : fail(client, DSA_REFUSED, "the world's specification has no frame or no actions");
}

static DsaResult hello(DsaClient *client) {
    msgpack_sbuffer header;
    msgpack_packer packer;
    Reply reply;
    begin(client, &header, &packer, "hello", 4);
    put(&packer, "min"), msgpack_pack_int(&packer, 1);
    put(&packer, "max"), msgpack_pack_int(&packer, 1);
    put(&packer, "features"), msgpack_pack_array(&packer, 1), put(&packer, "shm");
    put(&packer, "client"), put(&packer, "dsa_client.c");
    DsaResult result = exchange(client, &header, NULL, 0, &reply);
    if (result != DSA_OK) return result;
    client->epoch = whole(get(reply.map, "epoch"));
    drop(&reply);
    return DSA_OK;
}

DsaResult dsa_connect(DsaClient *client, const char *address, const char *server_key, const char *public_key,
                      const char *secret_key) {
    *client = (DsaClient){.timeout_ms = 1000, .tries = 3};
    zmq_msg_init(&client->frame);
    client->context = zmq_ctx_new();
    client->socket = zmq_socket(client->context, ZMQ_DEALER);
    static const struct { int option, value; } options[] = {
        {ZMQ_LINGER, 0},
        {ZMQ_IMMEDIATE, 1},  // steps for a server that is down must not pile up and then all run
        {ZMQ_RECONNECT_IVL, 50}, {ZMQ_RECONNECT_IVL_MAX, 400},
        {ZMQ_HEARTBEAT_IVL, 200},  // a frozen server is noticed
        {ZMQ_HEARTBEAT_TIMEOUT, 3000},  // all tries: or no slow message would arrive
    };
    bool good = true;
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        good = !zmq_setsockopt(client->socket, options[i].option, &options[i].value, sizeof(int)) && good;
    if (server_key && public_key && secret_key)
        good = good && !zmq_setsockopt(client->socket, ZMQ_CURVE_SERVERKEY, server_key, strlen(server_key) + 1) &&
               !zmq_setsockopt(client->socket, ZMQ_CURVE_PUBLICKEY, public_key, strlen(public_key) + 1) &&
               !zmq_setsockopt(client->socket, ZMQ_CURVE_SECRETKEY, secret_key, strlen(secret_key) + 1);
    if (!good || zmq_connect(client->socket, address)) return fail(client, DSA_REFUSED, zmq_strerror(zmq_errno()));
    return hello(client);
}

static DsaResult open_session(DsaClient *client) {
    msgpack_sbuffer header;
    msgpack_packer packer;
    Reply reply;
    const DsaOptions *options = &client->options;
    begin(client, &header, &packer, "specs", options->world != NULL);
    if (options->world) put(&packer, "world"), put(&packer, options->world);
    DsaResult result = exchange(client, &header, NULL, 0, &reply);
    if (result != DSA_OK) return result;
    result = take_world(client, &reply);
    drop(&reply);
    if (result != DSA_OK) return result;

    uint64_t key;  // the same key gives the same session, so that a retry opens no second one
    if (getentropy(&key, sizeof key)) return fail(client, DSA_REFUSED, "no random numbers");
    begin(client, &header, &packer, "open", 4 + (options->prompt != NULL));
    put(&packer, "key"), msgpack_pack_uint64(&packer, key);
    put(&packer, "world"), put(&packer, client->world.name);
    put(&packer, "seed"), msgpack_pack_uint64(&packer, options->seed);
    put(&packer, "frames"), put(&packer, options->shared_memory ? "shm" : "part");
    if (options->prompt) put(&packer, "prompt"), put(&packer, options->prompt);
    result = exchange(client, &header, NULL, 0, &reply);
    if (result != DSA_OK) return result;
    client->sid = whole(get(reply.map, "sid"));
    client->tick = whole(get(reply.map, "tick"));
    if (options->shared_memory) result = map_ring(client, get(reply.map, "ring"));
    if (result == DSA_OK) result = take_frame(client, &reply, 1);
    drop(&reply);
    return result;
}

DsaResult dsa_open(DsaClient *client, const DsaOptions *options) {
    free(client->world_asked), free(client->prompt_asked);
    client->options = *options;
    client->world_asked = options->world ? strdup(options->world) : NULL;
    client->options.world = client->world_asked;
    client->prompt_asked = options->prompt ? strdup(options->prompt) : NULL;
    client->options.prompt = client->prompt_asked;
    return open_session(client);
}

static void put_action(const DsaWorld *world, msgpack_packer *packer, const double *action) {
    if (world->action == DSA_DISCRETE) {
        msgpack_pack_int64(packer, (int64_t)action[0]);
        return;
    }
    msgpack_pack_array(packer, world->count);
    for (size_t i = 0; i < world->count; i++)
        if (world->action == DSA_BOX) msgpack_pack_double(packer, action[i]);
        else msgpack_pack_int(packer, action[i] != 0);
}

DsaResult dsa_step(DsaClient *client, const double *action, int64_t budget_us, int steps, DsaFrame *frame) {
    msgpack_sbuffer header;
    msgpack_packer packer;
    Reply reply;
    begin(client, &header, &packer, "step", 1 + (budget_us != 0) + (steps != 0));
    put(&packer, "action"), put_action(&client->world, &packer, action);
    if (budget_us) put(&packer, "budget_us"), msgpack_pack_int64(&packer, budget_us);
    if (steps) put(&packer, "steps"), msgpack_pack_int(&packer, steps);
    DsaResult result = exchange(client, &header, NULL, 0, &reply);
    if (result != DSA_OK) return result;
    const msgpack_object *shown = get(reply.map, "frame_tick");
    *frame = (DsaFrame){
        .tick = whole(get(reply.map, "tick")),
        .frame_tick = shown->type == MSGPACK_OBJECT_NEGATIVE_INTEGER ? shown->via.i64 : (int64_t)whole(shown),
        .steps = (int)whole(get(reply.map, "steps")),
        .confidence = real(get(reply.map, "confidence")),
    };
    text(get(reply.map, "status"), frame->status, sizeof frame->status);
    client->tick = frame->tick + 1;
    result = take_frame(client, &reply, client->world.frames_per_tick);
    drop(&reply);
    return result;
}

DsaResult dsa_snapshot(DsaClient *client) {
    msgpack_sbuffer header;
    msgpack_packer packer;
    Reply reply;
    begin(client, &header, &packer, "snapshot", 0);
    DsaResult result = exchange(client, &header, NULL, 0, &reply);
    if (result != DSA_OK) return result;
    keep_snapshot(client, &reply);
    drop(&reply);
    return DSA_OK;
}

DsaResult dsa_restore(DsaClient *client) {
    msgpack_sbuffer header;
    msgpack_packer packer;
    Reply reply;
    if (!client->snapshot) return fail(client, DSA_REFUSED, "restore: no snapshot was taken");
    begin(client, &header, &packer, "restore", 1);
    put(&packer, "bufs"), msgpack_pack_array(&packer, 1), msgpack_pack_map(&packer, 5);
    put(&packer, "n"), put(&packer, "snapshot");
    put(&packer, "d"), put(&packer, "u1");
    put(&packer, "s"), msgpack_pack_array(&packer, 1), msgpack_pack_uint64(&packer, client->snapshot_bytes);
    put(&packer, "at"), put(&packer, "part");
    put(&packer, "enc"), put(&packer, "raw");
    DsaResult result = exchange(client, &header, client->snapshot, client->snapshot_bytes, &reply);
    if (result != DSA_OK) return result;
    client->tick = whole(get(reply.map, "tick"));
    result = take_frame(client, &reply, 1);
    drop(&reply);
    return result;
}

static DsaResult simple(DsaClient *client, const char *type) {
    msgpack_sbuffer header;
    msgpack_packer packer;
    Reply reply;
    begin(client, &header, &packer, type, 0);
    DsaResult result = exchange(client, &header, NULL, 0, &reply);
    if (result == DSA_OK) drop(&reply);
    return result;
}

DsaResult dsa_ping(DsaClient *client) { return simple(client, "ping"); }

DsaResult dsa_recover(DsaClient *client, int patience_ms) {
    int64_t until = now_us() + (int64_t)patience_ms * 1000;
    for (;;) {
        client->retry = false;
        DsaResult result = hello(client);
        if (result == DSA_OK) result = open_session(client);
        if (result == DSA_OK && client->snapshot) result = dsa_restore(client);
        if (result == DSA_OK || now_us() >= until || (result == DSA_REFUSED && !client->retry)) return result;
        usleep(100000);
    }
}

void dsa_close(DsaClient *client) {
    if (client->sid) {
        client->tries = 1;
        simple(client, "close");  // without an answer, the session goes when its lease runs out
    }
    unmap(client);
    zmq_msg_close(&client->frame);
    if (client->socket) zmq_close(client->socket);
    if (client->context) zmq_ctx_term(client->context);
    free(client->snapshot), free(client->world_asked), free(client->prompt_asked);
    free(client->world.low), free(client->world.high);
    *client = (DsaClient){0};
}

// --- The example -----------------------------------------------------------------------------------------------------

#ifndef DSA_NO_EXAMPLE

static const char USAGE[] =
    "dsa_client ADDRESS [--world NAME] [--seed N] [--ticks N] [--steps N] [--fast] [--shm] [--picture FILE.ppm]\n"
    "           [--prompt NAME]\n"
    "  --steps    exactly so many denoising steps a tick, so that each run shows the same pictures\n"
    "  --fast     do not wait for the world's native rate\n"
    "  --shm      frames by shared memory, on the server's own machine\n"
    "  --prompt   one of the world's prompts, where it takes a text\n"
    "Keys of an encrypted connection, as Z85 text, are read from DSA_SERVER_KEY, DSA_PUBLIC_KEY and DSA_SECRET_KEY.\n";

// Whatever moves: the player of this example holds each action for 8 ticks.
static void act(const DsaWorld *world, uint64_t tick, double *action) {
    uint64_t turn = tick / 8;
    for (size_t i = 0; i < world->count; i++) {
        double share = (double)((turn + i) % 5) / 4;
        action[i] = world->action == DSA_BOX ? world->low[i] + share * (world->high[i] - world->low[i])
                                             : (double)((turn + i) % 2);
    }
    if (world->action == DSA_DISCRETE) action[0] = (double)(turn % world->count);
}

static int compare(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

// The pictures of the newest tick, one below the other.
static bool write_ppm(const char *path, const DsaClient *client) {
    FILE *file = fopen(path, "wb");
    if (!file) return false;
    size_t bytes = (size_t)client->pictures * picture_bytes(&client->world);
    fprintf(file, "P6\n%d %d\n255\n", client->world.width, client->pictures * client->world.height);
    bool written = fwrite(client->frames, 1, bytes, file) == bytes;
    return !fclose(file) && written;
}

static int end(DsaClient *client, const char *what) {
    fprintf(stderr, "dsa_client: %s: %s\n", what, client->error);
    dsa_close(client);
    return 1;
}

int main(int argc, char **argv) {
    const char *address = NULL, *picture = "frame.ppm";
    DsaOptions options = {.seed = 7};
    uint64_t ticks = 300;
    int steps = 0;
    bool fast = false;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--fast")) fast = true;
        else if (!strcmp(argv[i], "--shm")) options.shared_memory = true;
        else if (!strcmp(argv[i], "--world") && *value) options.world = value, i++;
        else if (!strcmp(argv[i], "--prompt") && *value) options.prompt = value, i++;
        else if (!strcmp(argv[i], "--picture") && *value) picture = value, i++;
        else if (!strcmp(argv[i], "--seed") && *value) options.seed = strtoull(value, NULL, 10), i++;
        else if (!strcmp(argv[i], "--ticks") && *value) ticks = strtoull(value, NULL, 10), i++;
        else if (!strcmp(argv[i], "--steps") && *value) steps = atoi(value), i++;
        else if (!address && argv[i][0] != '-') address = argv[i];
        else return fputs(USAGE, stderr), 2;
    }
    if (!address || !ticks) return fputs(USAGE, stderr), 2;

    DsaClient client;
    if (dsa_connect(&client, address, getenv("DSA_SERVER_KEY"), getenv("DSA_PUBLIC_KEY"), getenv("DSA_SECRET_KEY")))
        return end(&client, "connect");
    if (dsa_open(&client, &options)) return end(&client, "open");

    double *action = calloc(client.world.count, sizeof *action);
    int64_t *trips = calloc(ticks, sizeof *trips);
    if (!action || !trips) return end(&client, "no memory");
    uint64_t stepped = 0, steps_taken = 0, late = 0;
    int recoveries = 0, status = 0;
    int64_t due = now_us();
    while (client.tick < ticks) {
        uint64_t tick = client.tick;
        DsaFrame frame;
        act(&client.world, tick, action);
        int64_t asked = now_us();
        // A part of the period is left for the way there and back.
        DsaResult result = dsa_step(&client, action, client.world.period_us * 8 / 10, steps, &frame);
        if (result == DSA_OK) {
            trips[tick] = now_us() - asked;
            if (frame.tick != tick) {
                snprintf(client.error, sizeof client.error, "tick %" PRIu64 " came for %" PRIu64, frame.tick, tick);
                status = end(&client, "step");
                break;
            }
            stepped++;
            steps_taken += (uint64_t)frame.steps;
            late += strcmp(frame.status, "ok") != 0;
            if (client.tick % 60 == 0) result = dsa_snapshot(&client);
        }
        if (result == DSA_SILENT || result == DSA_RESTARTED) {
            fprintf(stderr, "dsa_client: %s; recovering\n", client.error);
            result = dsa_recover(&client, 30000);
            recoveries++;
            due = now_us();
        }
        if (result != DSA_OK) {
            status = end(&client, "step");
            break;
        }
        due += client.world.period_us;
        int64_t left = due - now_us();
        if (fast || left < 0) due = now_us();
        else usleep((useconds_t)left);
    }
    if (!status) {
        qsort(trips, ticks, sizeof *trips, compare);
        printf("ticks=%" PRIu64 " mean_steps=%.3f late=%" PRIu64 " recoveries=%d round_trip_us_p50=%" PRId64
               " round_trip_us_p99=%" PRId64 "\n",
               client.tick, (double)steps_taken / (double)stepped, late, recoveries, trips[ticks / 2],
               trips[ticks * 99 / 100]);
        if (!write_ppm(picture, &client)) {
            snprintf(client.error, sizeof client.error, "%s: %s", picture, strerror(errno));
            status = end(&client, "picture");
        }
    }
    if (!status) dsa_close(&client);
    free(action), free(trips);
    return status;
}

#endif
