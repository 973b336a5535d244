/* Settings: how steps are allocated, and where the session is. */

#include "client.h"

static void build_configure(struct session *session, struct request *request, const void *with)
{
    request_begin(request, "configure", channel_next_id(&session->channel), session->epoch, session->sid, 1);
    put_name(request, "controller");
    put_controller(request, with);
}

DSA_API int32_t dsa_session_configure(dsa_session *handle, const dsa_controller *controller)
{
    if (controller == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "controller: NULL");
    }
    struct session *session = NULL;
    dsa_controller ours;
    int32_t status = DSA_TAKE(dsa_controller, &ours, controller);
    status = status == DSA_OK ? check_controller(&ours) : status;
    status = status == DSA_OK ? session_enter_settled(handle, &session) : status;
    if (status < 0) {
        return status;
    }
    status = session_ask(session, build_configure, &ours, false);
    if (status == DSA_OK) {
        reply_drop(&session->reply);
        session->controller = ours;
        session->has_controller = session->controller_changed = true;
    }
    dsa_leave(handle);
    return status;
}

DSA_API int32_t dsa_session_controller(dsa_session *handle, dsa_controller *controller)
{
    if (controller == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "controller: NULL");
    }
    struct session *session = NULL;
    int32_t status = DSA_CHECK_OUTPUT(dsa_controller, controller);
    status = status == DSA_OK ? session_enter(handle, &session) : status;
    if (status == DSA_OK) {
        dsa_copy_out(controller, &session->controller, sizeof session->controller);
        dsa_leave(handle);
    }
    return status;
}

DSA_API int32_t dsa_session_where(dsa_session *handle, dsa_session_state *state)
{
    if (state == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "state: NULL");
    }
    void *data;
    int32_t status = DSA_CHECK_OUTPUT(dsa_session_state, state);
    status = status == DSA_OK ? dsa_enter_beside(handle, DSA_KIND_SESSION, &data) : status;
    if (status == DSA_OK) {
        struct session *session = data;
        dsa_session_state ours = {
            .on_miss = session->on_miss, .tick = atomic_load(&session->tick), .seed = atomic_load(&session->seed)};
        dsa_copy_out(state, &ours, sizeof ours);
        dsa_leave_beside(handle);
    }
    return status;
}
