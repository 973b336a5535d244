/* Moves: the session goes elsewhere without a tick, and shows where it is then. */

#include <string.h>

#include "client.h"

static void build_reset(struct session *session, struct request *request, const void *with)
{
    request_begin(request, "reset", channel_next_id(&session->channel), session->epoch, session->sid, 1);
    put_name(request, "seed");
    put_uint(request, *(const uint64_t *)with);
}

static void build_rewind(struct session *session, struct request *request, const void *with)
{
    request_begin(request, "rewind", channel_next_id(&session->channel), session->epoch, session->sid, 1);
    put_name(request, "ticks");
    put_uint(request, *(const uint32_t *)with);
}

struct bytes {
    const uint8_t *at;
    size_t count;
};

static void build_restore(struct session *session, struct request *request, const void *with)
{
    const struct bytes *snapshot = with;
    request_begin(request, "restore", channel_next_id(&session->channel), session->epoch, session->sid, 1);
    put_snapshot(request, snapshot->at, snapshot->count);
}

/* The session is elsewhere: session->reply shows where. */
static int32_t arrive(struct session *session, uint8_t *frame)
{
    const msgpack_object *map = &session->reply.map;
    session->confirmed = get_uint(map, "tick");
    atomic_store(&session->tick, session->confirmed);
    atomic_store(&session->seed, get_uint(map, "seed"));
    int32_t status = take_frame(session, (int64_t)session->confirmed - 1, frame, session->world->spec.frame_bytes);
    reply_drop(&session->reply);
    return status;
}

/* Go elsewhere, if the arguments are good. */
static int32_t move(struct session *session, job_build build, const void *with, uint8_t *frame, size_t frame_bytes)
{
    int32_t status = dsa_check_frame(frame, frame_bytes, session->world->spec.frame_bytes);
    status = status == DSA_OK ? settle(session) : status;
    status = status == DSA_OK ? session_ask(session, build, with, true) : status;
    return status == DSA_OK ? arrive(session, frame) : status;
}

DSA_API int32_t dsa_session_reset(dsa_session *handle, uint64_t seed, uint8_t *frame, size_t frame_bytes)
{
    struct session *session = NULL;
    int32_t status = session_enter(handle, &session);
    if (status < 0) {
        return status;
    }
    status = move(session, build_reset, &seed, frame, frame_bytes);
    if (status == DSA_OK) {
        journal_begin(&session->journal, seed);
    }
    dsa_leave(handle);
    return status;
}

DSA_API int32_t dsa_session_rewind(dsa_session *handle, uint32_t ticks, uint8_t *frame, size_t frame_bytes)
{
    struct session *session = NULL;
    int32_t status = session_enter(handle, &session);
    if (status < 0) {
        return status;
    }
    status = move(session, build_rewind, &ticks, frame, frame_bytes);
    if (status == DSA_OK && session->journal.is_kept && ticks > 0) {
        journal_blur(&session->journal);
        (void)checkpoint_now(session); /* if that fails, the next step's end tries again */
    }
    dsa_leave(handle);
    return status;
}

/* The controller in a snapshot, whose layout is in dsa_runtime/snapshot.py, and its prompt; NULL: that is not wanted. The
   server has found it to be whole. */
static bool read_snapshot(const struct bytes *snapshot, dsa_controller *controller, const dsa_spec *spec,
                          struct prompt *prompt)
{
    uint32_t header_bytes;
    size_t read = 0;
    if (snapshot->count < 16) {
        return false;
    }
    memcpy(&header_bytes, snapshot->at + 12, sizeof header_bytes);
    msgpack_zone zone;
    msgpack_object header;
    if (header_bytes > snapshot->count - 16 || !msgpack_zone_init(&zone, 4096)) {
        return false;
    }
    const uint8_t *arrays = snapshot->at + 16 + header_bytes;
    bool good = msgpack_unpack((const char *)snapshot->at + 16, header_bytes, &read, &zone, &header) ==
                MSGPACK_UNPACK_SUCCESS;
    if (good) {
        read_controller(get(&header, "controller"), controller);
        good = prompt == NULL ||
               read_embeddings(&header, arrays, snapshot->count - 16 - header_bytes, spec, prompt);
    }
    msgpack_zone_destroy(&zone);
    return good;
}

/* The session goes on from there, and would again. Takes the prompt over. */
static void note_restored(struct session *session, const struct bytes *snapshot, struct prompt *prompt)
{
    struct journal *journal = &session->journal;
    if (read_snapshot(snapshot, &session->controller, &session->world->spec, prompt)) {
        session->has_controller = true;
        session->controller_changed = false;
    }
    if (!journal->is_kept) {
        return;
    }
    zmq_msg_t copy;
    if (zmq_msg_init_size(&copy, snapshot->count)) {
        journal_blur(journal);
    } else {
        memcpy(zmq_msg_data(&copy), snapshot->at, snapshot->count);
        journal_checkpoint(journal, &copy);
        zmq_msg_close(&copy);
    }
    journal_begin_with(journal, prompt);
}

DSA_API int32_t dsa_session_restore(dsa_session *handle, const uint8_t *snapshot, size_t bytes, uint8_t *frame,
                                    size_t frame_bytes)
{
    if (snapshot == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "snapshot: NULL");
    }
    struct bytes given = {snapshot, bytes};
    struct session *session = NULL;
    int32_t status = session_enter(handle, &session);
    if (status < 0) {
        return status;
    }
    const dsa_spec *spec = &session->world->spec;
    struct prompt *prompt = NULL;
    if (session->journal.is_kept && spec->text_width) {
        prompt = prompt_new(spec, 0, spec->text_tokens);
        status = prompt == NULL ? DSA_E_MEMORY : DSA_OK;
    }
    status = status == DSA_OK ? move(session, build_restore, &given, frame, frame_bytes) : status;
    if (status == DSA_OK) {
        note_restored(session, &given, prompt);
    } else {
        prompt_free(prompt);
    }
    dsa_leave(handle);
    return status;
}

DSA_API int32_t dsa_session_prepare(dsa_session *handle)
{
    struct session *session = NULL;
    int32_t status = session_enter_settled(handle, &session);
    if (status < 0) {
        return status;
    }
    /* Memory was taken when it was opened. This goes the ways of a step: there and back, and to the picture. */
    const uint32_t ticks = 0;
    const volatile char *touched = dsa_last_error(); /* this thread's own message */
    (void)*touched;
    status = session_ask(session, build_rewind, &ticks, false);
    status = status == DSA_OK ? arrive(session, NULL) : status;
    dsa_leave(handle);
    return status;
}
