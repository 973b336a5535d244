/* Snapshots: for the caller, and for the journal of a session that is to recover. */

#include <string.h>

#include "client.h"

enum { SNAPSHOT_MARGIN = 512 };

/* ---- Checkpoints ---- */

static void build_snapshot(struct session *session, struct request *request, const void *with)
{
    (void)with;
    request_begin(request, "snapshot", channel_next_id(&session->channel), session->epoch, session->sid, 0);
}

void checkpoint_post(struct session *session)
{
    build_snapshot(session, &session->small_request, NULL);
    channel_post(&session->channel, &session->small_request);
    session->checkpoint_posted = true;
}

static int32_t ask_snapshot(struct session *session, zmq_msg_t **part)
{
    int32_t status = session_ask(session, build_snapshot, NULL, false);
    if (status == DSA_OK && (reply_buffer(&session->reply, "snapshot", part) == NULL || *part == NULL)) {
        reply_drop(&session->reply);
        status = dsa_fail(DSA_E_INTERNAL, "the server's reply has no snapshot");
    }
    return status;
}

static void keep_checkpoint(struct session *session, zmq_msg_t *part)
{
    if (session->journal.is_kept) {
        journal_checkpoint(&session->journal, part);
        session->controller_changed = false;
    }
}

int32_t checkpoint_now(struct session *session)
{
    zmq_msg_t *part;
    int32_t status = ask_snapshot(session, &part);
    if (status == DSA_OK) {
        keep_checkpoint(session, part);
        reply_drop(&session->reply);
    }
    return status;
}

/* ---- For the caller ---- */

DSA_API int32_t dsa_session_snapshot(dsa_session *handle, uint8_t *buffer, size_t capacity, size_t *bytes)
{
    if (bytes == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "bytes: NULL");
    }
    *bytes = 0;
    if (buffer == NULL && capacity != 0) {
        return dsa_fail(DSA_E_ARGUMENT, "buffer: NULL, but capacity is %zu; both or neither", capacity);
    }
    struct session *session = NULL;
    zmq_msg_t *part;
    int32_t status = session_enter_settled(handle, &session);
    if (status < 0) {
        return status;
    }
    status = ask_snapshot(session, &part);
    if (status == DSA_OK) {
        size_t needed = zmq_msg_size(part);
        *bytes = needed;
        if (buffer == NULL) {
            *bytes += SNAPSHOT_MARGIN; /* all have the same arrays; the numbers of a header take some more or less */
        } else if (capacity < needed) {
            status = dsa_fail(DSA_E_BUFFER, "buffer: needs %zu bytes, has %zu", needed, capacity);
        } else {
            memcpy(buffer, zmq_msg_data(part), needed);
        }
        keep_checkpoint(session, part);
        reply_drop(&session->reply);
    }
    dsa_leave(handle);
    return status;
}
