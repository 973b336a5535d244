/* Sessions: opened, forked, set, cancelled, closed. */

#include <stdlib.h>

#include "host.h"

/* ---- Opening and closing ---- */

/* A handle for a session of the Python half; closes that where there is none to be had. */
static int32_t adopt(const struct session *like, uint64_t id, dsa_session **session)
{
    char message[DSA_MESSAGE_BYTES];
    struct session *data = malloc(sizeof *data);
    int32_t status = data == NULL ? dsa_fail(DSA_E_MEMORY, "out of memory") : DSA_OK;
    if (status == DSA_OK) {
        *data = *like;
        data->id = id;
        status = ASK(dsa_py_session_stepper, id, &data->stepper);
    }
    if (status == DSA_OK) {
        *session = dsa_handle_new(DSA_KIND_SESSION, like->world, data);
        status = *session == NULL ? DSA_E_MEMORY : DSA_OK;
    }
    if (status < 0) {
        dsa_py_session_close(id, message);
        free(data);
    }
    return status;
}

static int32_t open_session(void *handle, const struct world *world, const dsa_session_config *config,
                            dsa_session **session)
{
    dsa_controller controller;
    int32_t status = DSA_TAKE(dsa_controller, &controller, config->controller);
    if (status < 0) {
        return status;
    }
    char message[DSA_MESSAGE_BYTES];
    const dsa_spec *spec = &world->spec;
    struct session like = {.world = handle,
                           .frame_bytes = spec->frame_bytes,
                           .tick_bytes = spec->tick_bytes,
                           .action_bytes = spec->action_bytes,
                           .period_us = spec->period_us};
    uint64_t id;
    status = ASK(dsa_py_session_open, world->id, config, &controller, &id);
    return status < 0 ? status : adopt(&like, id, session);
}

DSA_API int32_t dsa_session_open(dsa_world *world, const dsa_session_config *config, dsa_session **session)
{
    if (session == NULL) {
        return dsa_needs("dsa_session_open", "session");
    }
    *session = NULL;
    dsa_session_config ours;
    void *data;
    int32_t status = DSA_TAKE(dsa_session_config, &ours, config);
    if (status == DSA_OK) {
        status = dsa_enter(world, DSA_KIND_WORLD, &data);
    }
    if (status == DSA_OK) {
        status = open_session(world, data, &ours, session);
        dsa_leave(world);
    }
    return status;
}

DSA_API int32_t dsa_session_close(dsa_session *session)
{
    return dsa_handle_close(session, DSA_KIND_SESSION, dsa_host_end);
}

/* All of them, or none: what was made before one failed is closed again. */
static int32_t adopt_all(const struct session *like, uint32_t count, const uint64_t *ids, dsa_session **forks)
{
    int32_t status = DSA_OK;
    for (uint32_t i = 0; i < count; i++) {
        char message[DSA_MESSAGE_BYTES];
        if (status == DSA_OK) {
            status = adopt(like, ids[i], &forks[i]);
        } else {
            dsa_py_session_close(ids[i], message);
        }
    }
    for (uint32_t i = 0; status < 0 && i < count; i++) {
        dsa_session_close(forks[i]);
        forks[i] = NULL;
    }
    return status;
}

DSA_API int32_t dsa_session_fork(dsa_session *handle, uint32_t count, dsa_session **forks)
{
    if (forks == NULL) {
        return dsa_needs("dsa_session_fork", "forks");
    }
    if (count < 1 || count > 65536) {
        return dsa_fail(DSA_E_ARGUMENT, "count: must lie in 1..65536, got %u", (unsigned)count);
    }
    for (uint32_t i = 0; i < count; i++) {
        forks[i] = NULL;
    }
    uint64_t *ids = calloc(count, sizeof *ids);
    if (ids == NULL) {
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    int32_t status;
    INSIDE(handle, (status = ASK(dsa_py_session_fork, session->id, count, ids)) < 0
                       ? status
                       : adopt_all(session, count, ids, forks));
    free(ids);
    return status;
}

/* ---- From another thread ---- */

DSA_API int32_t dsa_session_cancel(dsa_session *handle, int32_t *cancelled)
{
    void *data;
    int32_t ours = 0, status = dsa_enter_to_stop(handle, DSA_KIND_SESSION, &data);
    if (status == DSA_OK) {
        char message[DSA_MESSAGE_BYTES];
        status = ASK(dsa_py_session_cancel, ((struct session *)data)->id, &ours);
        dsa_leave_beside(handle);
    }
    if (cancelled != NULL) {
        *cancelled = ours;
    }
    return status;
}

/* ---- Settings ---- */

DSA_API int32_t dsa_session_prepare(dsa_session *handle)
{
    int32_t status;
    INSIDE(handle, ASK(dsa_py_session_prepare, session->id));
    return status;
}

DSA_API int32_t dsa_session_configure(dsa_session *handle, const dsa_controller *controller)
{
    if (controller == NULL) {
        return dsa_needs("dsa_session_configure", "controller");
    }
    dsa_controller ours;
    int32_t status = DSA_TAKE(dsa_controller, &ours, controller);
    if (status == DSA_OK) {
        INSIDE(handle, ASK(dsa_py_session_configure, session->id, &ours));
    }
    return status;
}

DSA_API int32_t dsa_session_controller(dsa_session *handle, dsa_controller *controller)
{
    if (controller == NULL) {
        return dsa_needs("dsa_session_controller", "controller");
    }
    dsa_controller ours;
    dsa_controller_init(&ours, sizeof ours);
    int32_t status = DSA_CHECK_OUTPUT(dsa_controller, controller);
    if (status == DSA_OK) {
        INSIDE(handle, ASK(dsa_py_session_controller, session->id, &ours));
    }
    if (status == DSA_OK) {
        dsa_copy_out(controller, &ours, sizeof ours);
    }
    return status;
}

DSA_API int32_t dsa_session_set_prompt(dsa_session *handle, const char *name)
{
    if (name == NULL) {
        return dsa_needs("dsa_session_set_prompt", "name");
    }
    int32_t status;
    INSIDE(handle, ASK(dsa_py_session_set_prompt, session->id, name));
    return status;
}

DSA_API int32_t dsa_session_set_text(dsa_session *handle, const float *embeddings, uint32_t tokens)
{
    if (embeddings == NULL) {
        return dsa_needs("dsa_session_set_text", "embeddings");
    }
    int32_t status;
    INSIDE(handle, ASK(dsa_py_session_set_text, session->id, embeddings, tokens));
    return status;
}

DSA_API int32_t dsa_session_where(dsa_session *handle, dsa_session_state *state)
{
    if (state == NULL) {
        return dsa_needs("dsa_session_where", "state");
    }
    dsa_session_state ours;
    dsa_session_state_init(&ours, sizeof ours);
    int32_t status = DSA_CHECK_OUTPUT(dsa_session_state, state);
    if (status == DSA_OK) {
        INSIDE(handle, ASK(dsa_py_session_where, session->id, &ours));
    }
    if (status == DSA_OK) {
        dsa_copy_out(state, &ours, sizeof ours);
    }
    return status;
}
