/* The runtime of libdsa_client: a connection, what is asked on it besides sessions' requests, and the log. */

#define _POSIX_C_SOURCE 200809L

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"

#define CANCEL_US 1000000.0

enum { ATTEMPTS = 3, CONTROL_BYTES = 1024 };

DSA_API const char *dsa_library_name(void) { return "libdsa_client"; }

void runtime_log(struct runtime *runtime, int32_t level, const char *format, ...)
{
    if (runtime->log == NULL || level < runtime->log_level) {
        return;
    }
    char line[512];
    va_list values;
    va_start(values, format);
    vsnprintf(line, sizeof line, format, values);
    va_end(values);
    pthread_mutex_lock(&runtime->logging);
    runtime->log(runtime->log_user, level, line);
    pthread_mutex_unlock(&runtime->logging);
}

/* ---- What the server says ---- */

bool is_error(const struct reply *reply) { return is_text(get(&reply->map, "t"), "error"); }

bool has_code(const struct reply *reply, const char *code) { return is_text(get(&reply->map, "code"), code); }

int32_t refused(const struct reply *reply)
{
    static const struct {
        const char *name;
        int32_t status;
    } KINDS[] = {
        {"ActionError", DSA_E_ACTION},     {"BudgetError", DSA_E_BUDGET},       {"QualityError", DSA_E_QUALITY},
        {"SessionError", DSA_E_SESSION},   {"SnapshotError", DSA_E_SNAPSHOT},   {"DeadlineError", DSA_E_DEADLINE},
        {"EngineError", DSA_E_ENGINE},     {"CancelledError", DSA_E_CANCELLED}, {"WorldError", DSA_E_WORLD},
        {"PromptError", DSA_E_PROMPT},
    }, CODES[] = {
        {"version", DSA_E_UNSUPPORTED}, {"malformed", DSA_E_ARGUMENT},   {"epoch", DSA_E_GONE},
        {"session", DSA_E_GONE},        {"unsupported", DSA_E_UNSUPPORTED}, {"invalid", DSA_E_ARGUMENT},
        {"busy", DSA_E_CAPACITY},       {"deadline", DSA_E_DEADLINE},    {"cancelled", DSA_E_CANCELLED},
        {"capacity", DSA_E_CAPACITY},   {"draining", DSA_E_CAPACITY},
    };
    char message[600];
    get_text(&reply->map, "msg", message, sizeof message);
    const msgpack_object *kind = get(&reply->map, "kind"), *code = get(&reply->map, "code");
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        if (is_text(kind, KINDS[i].name)) {
            return dsa_fail(KINDS[i].status, "%s", message);
        }
    }
    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++) {
        if (is_text(code, CODES[i].name)) {
            return dsa_fail(CODES[i].status, "%s", message);
        }
    }
    return dsa_fail(DSA_E_INTERNAL, "%s", message);
}

void build_hello(struct channel *channel, struct request *request)
{
    char client[64];
    snprintf(client, sizeof client, "libdsa_client %d.%d.%d", DSA_VERSION_MAJOR, DSA_VERSION_MINOR, DSA_VERSION_PATCH);
    channel->epoch = 0;
    request_begin(request, "hello", channel_next_id(channel), 0, 0, 4);
    put_name(request, "min");
    put_uint(request, 1);
    put_name(request, "max");
    put_uint(request, 1);
    put_name(request, "features");
    put_array(request, 1);
    put_text(request, "shm");
    put_name(request, "client");
    put_text(request, client);
}

int32_t read_welcome(struct reply *reply, const char *world, const char *fingerprint, struct welcome *welcome)
{
    const msgpack_object *features = get(&reply->map, "features"), *worlds = get(&reply->map, "worlds");
    *welcome = (struct welcome){.epoch = get_uint(&reply->map, "epoch")};
    for (uint32_t i = 0; i < length_of(features); i++) {
        welcome->has_shm = welcome->has_shm || is_text(item_of(features, i), "shm");
    }
    if (!welcome->epoch || !length_of(worlds)) {
        return dsa_fail(DSA_E_INTERNAL, "the server's welcome makes no sense");
    }
    for (uint32_t i = 0; world != NULL && i < length_of(worlds); i++) {
        const msgpack_object *entry = item_of(worlds, i);
        if (is_text(get(entry, "name"), world) && is_text(get(entry, "fingerprint"), fingerprint)) {
            return DSA_OK;
        }
    }
    if (world == NULL) {
        return DSA_OK;
    }
    return dsa_fail(DSA_E_GONE, "the server now has another world \"%s\", or none: open it anew", world);
}

/* ---- Asking; `asking` is held ---- */

static int32_t silent(const struct runtime *runtime)
{
    return dsa_fail(DSA_E_GONE, "%s: no answer for %g s", runtime->link.address, runtime->link.timeout_us * 1e-6);
}

static int32_t hello(struct runtime *runtime)
{
    struct channel *control = &runtime->control;
    build_hello(control, &runtime->request);
    if (channel_ask(control, &runtime->request, NEVER, &runtime->reply) != ANSWERED) {
        return silent(runtime);
    }
    int32_t status = is_error(&runtime->reply) ? refused(&runtime->reply)
                                               : read_welcome(&runtime->reply, NULL, NULL, &runtime->welcome);
    reply_drop(&runtime->reply);
    control->epoch = status < 0 ? 0 : runtime->welcome.epoch;
    return status;
}

int32_t control_ask(struct runtime *runtime, build_function build, void *with)
{
    pthread_mutex_lock(&runtime->asking);
    int32_t status = DSA_OK;
    for (int attempt = 0; status == DSA_OK; attempt++) {
        if (!runtime->control.epoch || attempt > 0) {
            status = attempt == ATTEMPTS ? dsa_fail(DSA_E_GONE, "the server restarts again and again") : hello(runtime);
            if (status < 0) {
                break;
            }
        }
        build(with, &runtime->control, &runtime->request);
        if (runtime->request.too_long) {
            status = dsa_fail(DSA_E_ARGUMENT, "%s: a name is too long", runtime->request.type);
            break;
        }
        enum outcome outcome = channel_ask(&runtime->control, &runtime->request, NEVER, &runtime->reply);
        if (outcome == SILENT) {
            status = silent(runtime);
        } else if (outcome == ANSWERED) {
            if (!is_error(&runtime->reply)) {
                return DSA_OK;
            }
            status = refused(&runtime->reply);
            reply_drop(&runtime->reply);
        }
    }
    pthread_mutex_unlock(&runtime->asking);
    return status;
}

void control_done(struct runtime *runtime)
{
    reply_drop(&runtime->reply);
    pthread_mutex_unlock(&runtime->asking);
}

bool control_cancel(struct runtime *runtime, uint64_t epoch, uint64_t sid, uint64_t of)
{
    struct channel *control = &runtime->control;
    bool cancelled = false;
    pthread_mutex_lock(&runtime->asking);
    uint64_t before = control->epoch;
    control->epoch = epoch;
    request_begin(&runtime->request, "cancel", channel_next_id(control), epoch, sid, 1);
    put_name(&runtime->request, "of");
    put_uint(&runtime->request, of);
    if (channel_ask(control, &runtime->request, dsa_now_us() + CANCEL_US, &runtime->reply) == ANSWERED) {
        cancelled = get_bool(&runtime->reply.map, "cancelled");
        reply_drop(&runtime->reply);
    }
    control->epoch = before;
    pthread_mutex_unlock(&runtime->asking);
    return cancelled;
}

/* ---- The interface ---- */

static void runtime_free(struct runtime *runtime)
{
    heartbeat_close(&runtime->heartbeat);
    channel_close(&runtime->control);
    request_free(&runtime->request);
    link_close(&runtime->link);
    pthread_mutex_destroy(&runtime->asking);
    pthread_mutex_destroy(&runtime->logging);
    free(runtime);
}

static int32_t connect_to(const dsa_runtime_config *config, struct runtime **made)
{
    struct runtime *runtime = calloc(1, sizeof *runtime);
    if (runtime == NULL) {
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    int32_t status = link_open(&runtime->link, config);
    if (status < 0) {
        free(runtime);
        return status;
    }
    runtime->frames = config->frames;
    runtime->log_level = config->log_level;
    runtime->log = config->log;
    runtime->log_user = config->log_user;
    pthread_mutex_init(&runtime->logging, NULL);
    pthread_mutex_init(&runtime->asking, NULL);
    if (!request_new(&runtime->request, CONTROL_BYTES)) {
        status = dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    if (status == DSA_OK) {
        status = channel_open(&runtime->control, &runtime->link);
    }
    if (status == DSA_OK) {
        status = heartbeat_open(&runtime->heartbeat, &runtime->link);
    }
    if (status == DSA_OK) {
        pthread_mutex_lock(&runtime->asking);
        status = hello(runtime);
        pthread_mutex_unlock(&runtime->asking);
    }
    if (status == DSA_OK && config->frames == DSA_FRAMES_SHM && !runtime->welcome.has_shm) {
        status = dsa_fail(DSA_E_UNSUPPORTED, "frames: the server does not offer shared memory; use DSA_FRAMES_AUTO");
    }
    if (status < 0) {
        runtime_free(runtime);
        return status;
    }
    runtime_log(runtime, DSA_LOG_INFO, "connected to %s", runtime->link.address);
    *made = runtime;
    return DSA_OK;
}

DSA_API int32_t dsa_runtime_open(const dsa_runtime_config *config, dsa_runtime **handle)
{
    if (handle == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "runtime: NULL");
    }
    *handle = NULL;
    dsa_runtime_config ours;
    int32_t status = DSA_TAKE(dsa_runtime_config, &ours, config);
    if (status == DSA_OK && (ours.frames < DSA_FRAMES_AUTO || ours.frames > DSA_FRAMES_SHM)) {
        status = dsa_fail(DSA_E_ARGUMENT, "frames: expected DSA_FRAMES_AUTO, _PART or _SHM, got %d", (int)ours.frames);
    }
    if (status == DSA_OK && dsa_is_forked()) {
        status = dsa_fail(DSA_E_FORKED, "this process was forked after dsa_runtime_open; open it after forking instead");
    }
    struct runtime *runtime = NULL;
    if (status == DSA_OK) {
        status = connect_to(&ours, &runtime);
    }
    if (status < 0) {
        return status;
    }
    *handle = dsa_handle_new(DSA_KIND_RUNTIME, NULL, runtime);
    if (*handle == NULL) {
        runtime_free(runtime);
        return DSA_E_MEMORY;
    }
    dsa_notice_forks();
    return DSA_OK;
}

static void end(enum dsa_kind kind, void *data)
{
    switch (kind) {
    case DSA_KIND_RUNTIME: runtime_free(data); break;
    case DSA_KIND_WORLD: world_free(data); break;
    case DSA_KIND_SESSION: session_free(data); break;
    }
}

DSA_API int32_t dsa_runtime_close(dsa_runtime *runtime)
{
    return dsa_handle_close(runtime, DSA_KIND_RUNTIME, end);
}

DSA_API int32_t dsa_world_close(dsa_world *world) { return dsa_handle_close(world, DSA_KIND_WORLD, end); }

DSA_API int32_t dsa_session_close(dsa_session *session) { return dsa_handle_close(session, DSA_KIND_SESSION, end); }
