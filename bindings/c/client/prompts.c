/* The prompt of a session: changed, and found in a snapshot. */

#include <string.h>

#include "client.h"

static void build_prompt(struct session *session, struct request *request, const void *with)
{
    request_begin(request, "prompt", channel_next_id(&session->channel), session->epoch, session->sid, 1);
    put_prompt(request, &session->world->spec, with);
}

/* Takes the prompt over, which may be NULL: out of memory. */
static int32_t change(struct session *session, struct prompt *prompt)
{
    int32_t status = prompt == NULL ? DSA_E_MEMORY : settle(session);
    status = status == DSA_OK ? session_ask(session, build_prompt, prompt, true) : status;
    if (status == DSA_OK) {
        reply_drop(&session->reply);
    }
    if (status == DSA_OK && session->journal.is_kept) {
        journal_prompt(&session->journal, prompt);
    } else {
        prompt_free(prompt);
    }
    return status;
}

DSA_API int32_t dsa_session_set_prompt(dsa_session *handle, const char *name)
{
    if (name == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "name: NULL");
    }
    struct session *session = NULL;
    int32_t status = session_enter(handle, &session);
    if (status < 0) {
        return status;
    }
    const dsa_spec *spec = &session->world->spec;
    uint32_t index;
    status = check_name(spec, name, &index);
    status = status == DSA_OK ? change(session, prompt_new(spec, index, 0)) : status;
    dsa_leave(handle);
    return status;
}

DSA_API int32_t dsa_session_set_text(dsa_session *handle, const float *embeddings, uint32_t tokens)
{
    if (embeddings == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "embeddings: NULL");
    }
    struct session *session = NULL;
    int32_t status = session_enter(handle, &session);
    if (status < 0) {
        return status;
    }
    const dsa_spec *spec = &session->world->spec;
    status = check_embeddings(spec, embeddings, tokens);
    if (status == DSA_OK) {
        struct prompt *prompt = prompt_new(spec, 0, tokens);
        if (prompt != NULL) {
            memcpy(prompt->embeddings, embeddings, (size_t)tokens * spec->text_width * sizeof *embeddings);
        }
        status = change(session, prompt);
    }
    dsa_leave(handle);
    return status;
}

/* Bytes of an array that a snapshot's header lists. */
static uint64_t size_of(const msgpack_object *entry)
{
    const msgpack_object *shape = get(entry, "shape"), *dtype = get(entry, "dtype");
    uint64_t bytes = is_text(dtype, "|u1") ? 1 : sizeof(float);
    for (uint32_t i = 0; i < length_of(shape); i++) {
        bytes *= (uint64_t)as_real(item_of(shape, i), 0);
    }
    return bytes;
}

bool read_embeddings(const msgpack_object *header, const uint8_t *arrays, size_t bytes, const dsa_spec *spec,
                     struct prompt *prompt)
{
    const msgpack_object *all = get(header, "arrays");
    const uint64_t needed = (uint64_t)prompt->tokens * spec->text_width * sizeof(float);
    uint64_t at = 0;
    for (uint32_t i = 0; i < length_of(all); i++) {
        const msgpack_object *entry = item_of(all, i);
        uint64_t size = size_of(entry);
        if (size > bytes || at > bytes - size) {
            return false;
        }
        if (is_text(get(entry, "name"), "text")) {
            if (size == needed) {
                memcpy(prompt->embeddings, arrays + at, needed);
            }
            return size == needed;
        }
        at += size;
    }
    return false;
}
