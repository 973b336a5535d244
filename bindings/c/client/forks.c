/* Forks: sessions that go on from where another one is. */

#include <string.h>

#include "client.h"

enum { MOST_FORKS = 1024 };

struct fork {
    uint32_t count;
    uint64_t key;
};

static void build_fork(struct session *session, struct request *request, const void *with)
{
    const struct fork *fork = with;
    request_begin(request, "fork", channel_next_id(&session->channel), session->epoch, session->sid, 2);
    put_name(request, "n");
    put_uint(request, fork->count);
    put_name(request, "key");
    put_uint(request, fork->key);
}

/* A session that is at the server already. NULL: out of memory. */
static struct session *branch(struct session *from, uint64_t sid)
{
    dsa_session_config config;
    dsa_session_config_init(&config, sizeof config);
    config.on_miss = from->on_miss;
    config.seed = from->journal.seed;
    config.history = from->history;
    config.lease_ms = from->lease_ms;
    config.recover = from->recover;
    config.checkpoint_ticks = from->recover ? from->journal.every : 0;
    struct session *session =
        session_new(from->world, from->world_handle, &config, from->has_controller ? &from->controller : NULL);
    if (session == NULL) {
        return NULL;
    }
    session->confirmed = from->confirmed;
    atomic_store(&session->tick, from->confirmed);
    atomic_store(&session->seed, atomic_load(&from->seed));
    session->newest_tick = from->newest_tick;
    session->way_us = from->way_us;
    if (session->newest != NULL) {
        memcpy(session->newest, from->newest, from->world->spec.tick_bytes);
    }
    if (session->journal.is_kept) {
        zmq_msg_t shared;
        zmq_msg_init(&shared);
        zmq_msg_copy(&shared, &from->journal.snapshot);
        journal_checkpoint(&session->journal, &shared);
        zmq_msg_close(&shared);
        const struct prompt *prompt = from->journal.prompt; /* there is no later one since the checkpoint */
        if (prompt != NULL) {
            journal_begin_with(&session->journal, prompt_copy(&from->world->spec, prompt));
        }
        if (prompt != NULL && session->journal.prompt == NULL) {
            session_free(session);
            return NULL;
        }
    }
    session->channel.epoch = session->epoch = from->epoch;
    session->sid = sid;
    session->lease_us = from->lease_us;
    session->use_shm = from->use_shm;
    session->stage = session->use_shm ? AT_FRAMES : PLACED; /* their frames come as parts */
    return session;
}

static int32_t make_branches(struct session *from, uint32_t count, dsa_session **forks)
{
    const msgpack_object *sids = get(&from->reply.map, "sids");
    int32_t status = length_of(sids) == count ? DSA_OK : dsa_fail(DSA_E_INTERNAL, "the server has made other forks");
    for (uint32_t i = 0; status == DSA_OK && i < count; i++) {
        const msgpack_object *sid = item_of(sids, i);
        struct session *made = branch(from, sid->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? sid->via.u64 : 0);
        status = made == NULL ? DSA_E_MEMORY : session_ping(made);
        if (status == DSA_OK) {
            forks[i] = dsa_handle_new(DSA_KIND_SESSION, from->world_handle, made);
            status = forks[i] == NULL ? DSA_E_MEMORY : DSA_OK;
        }
        if (status < 0 && made != NULL) {
            session_free(made);
        }
    }
    return status;
}

DSA_API int32_t dsa_session_fork(dsa_session *handle, uint32_t count, dsa_session **forks)
{
    if (forks == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "forks: NULL");
    }
    if (count < 1 || count > MOST_FORKS) {
        return dsa_fail(DSA_E_ARGUMENT, "count: must lie in 1..%d, got %u", MOST_FORKS, (unsigned)count);
    }
    for (uint32_t i = 0; i < count; i++) {
        forks[i] = NULL;
    }
    struct session *session = NULL;
    struct fork wanted = {.count = count};
    int32_t status = session_enter_settled(handle, &session);
    if (status < 0) {
        return status;
    }
    if (random_number(&wanted.key)) {
        status = session->journal.is_kept ? checkpoint_now(session) : DSA_OK; /* they begin with that, too */
        status = status == DSA_OK ? session_ask(session, build_fork, &wanted, false) : status;
    } else {
        status = dsa_fail(DSA_E_INTERNAL, "the system has no random numbers");
    }
    if (status == DSA_OK) {
        status = make_branches(session, count, forks);
        reply_drop(&session->reply);
        for (uint32_t i = 0; status < 0 && i < count; i++) {
            dsa_session_close(forks[i]);
            forks[i] = NULL;
        }
    }
    dsa_leave(handle);
    return status;
}
