/* Moves: a session goes elsewhere without a tick, or tells where it is for one that shall go there. */

#include "host.h"

#define WITH_FRAME(call) (status = dsa_check_frame(frame, frame_bytes, session->frame_bytes)) < 0 ? status : (call)

DSA_API int32_t dsa_session_reset(dsa_session *handle, uint64_t seed, uint8_t *frame, size_t frame_bytes)
{
    int32_t status;
    INSIDE(handle, WITH_FRAME(ASK(dsa_py_session_reset, session->id, seed, frame)));
    return status;
}

DSA_API int32_t dsa_session_rewind(dsa_session *handle, uint32_t ticks, uint8_t *frame, size_t frame_bytes)
{
    int32_t status;
    INSIDE(handle, WITH_FRAME(ASK(dsa_py_session_rewind, session->id, ticks, frame)));
    return status;
}

DSA_API int32_t dsa_session_snapshot(dsa_session *handle, uint8_t *buffer, size_t capacity, size_t *bytes)
{
    if (bytes == NULL) {
        return dsa_needs("dsa_session_snapshot", "bytes");
    }
    *bytes = 0;
    if (buffer == NULL && capacity != 0) {
        return dsa_fail(DSA_E_ARGUMENT, "buffer: NULL, but capacity is %zu; both or neither", capacity);
    }
    int32_t status;
    INSIDE(handle, ASK(dsa_py_session_snapshot, session->id, buffer, capacity, bytes));
    return status;
}

DSA_API int32_t dsa_session_restore(dsa_session *handle, const uint8_t *snapshot, size_t bytes, uint8_t *frame,
                                    size_t frame_bytes)
{
    if (snapshot == NULL) {
        return dsa_needs("dsa_session_restore", "snapshot");
    }
    int32_t status;
    INSIDE(handle, WITH_FRAME(ASK(dsa_py_session_restore, session->id, snapshot, bytes, frame)));
    return status;
}
