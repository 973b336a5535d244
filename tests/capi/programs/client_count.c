/* Counts what a step of libdsa_client allocates on the thread that calls it, by whose code asks for it.

   client_count WORLD STEPS SESSIONS: prints "dsa=N msgpack=N zmq=N other=N kb=N sessions_kb=N": allocations per step and
   memory that is kept, by steps and by sessions that were opened and closed */

#define _GNU_SOURCE
#include <link.h>
#include <stdint.h>
#include <unistd.h>

#include "check.h"

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

enum { DSA, MSGPACK, ZMQ, OTHER, PARTS };

static const char *const NAMES[PARTS] = {"libdsa_client", "msgpack", "libzmq", ""};
static uintptr_t starts[PARTS], ends[PARTS];
static _Thread_local int counting;
static long counts[PARTS];

static int find(struct dl_phdr_info *object, size_t size, void *nothing)
{
    (void)size, (void)nothing;
    for (int part = 0; part < OTHER; part++) {
        if (strstr(object->dlpi_name, NAMES[part]) == NULL) continue;
        starts[part] = UINTPTR_MAX;
        for (int i = 0; i < object->dlpi_phnum; i++) {
            const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
            if (segment->p_type != PT_LOAD) continue;
            uintptr_t at = object->dlpi_addr + segment->p_vaddr;
            if (at < starts[part]) starts[part] = at;
            if (at + segment->p_memsz > ends[part]) ends[part] = at + segment->p_memsz;
        }
    }
    return 0;
}

static void note(uintptr_t caller)
{
    int part = 0;
    if (!counting) return;
    while (part < OTHER && (caller < starts[part] || caller >= ends[part])) part++;
    counts[part]++;
}

#define CALLER ((uintptr_t)__builtin_return_address(0))

void *malloc(size_t bytes) { note(CALLER); return __libc_malloc(bytes); }
void *calloc(size_t count, size_t bytes) { note(CALLER); return __libc_calloc(count, bytes); }
void *realloc(void *old, size_t bytes) { note(CALLER); return __libc_realloc(old, bytes); }

int main(int count, char **arguments)
{
    dsa_runtime *runtime;
    dsa_world *world;
    dsa_session *session;
    dsa_session_config config;
    dsa_spec spec;
    dsa_tick tick;
    CHECK(count == 4);
    int steps = atoi(arguments[2]), sessions = atoi(arguments[3]);
    dl_iterate_phdr(find, NULL);
    CHECK(ends[DSA] && ends[MSGPACK] && ends[ZMQ]);
    open_world(arguments[1], &runtime, &world, &spec);
    CHECK(dsa_session_config_init(&config, sizeof config) == DSA_OK);
    config.recover = 1;
    config.on_miss = DSA_ON_MISS_REPEAT;
    config.checkpoint_ticks = 50;

    counting = 1; /* to see that it counts: a session takes memory */
    CHECK(dsa_session_open(world, &config, &session) == DSA_OK);
    counting = 0;
    CHECK(counts[DSA] > 0);
    CHECK(dsa_session_prepare(session) == DSA_OK);
    CHECK(dsa_tick_init(&tick, sizeof tick) == DSA_OK);
    uint8_t *frame = malloc(spec.frame_bytes);
    CHECK(frame != NULL);

    memset(counts, 0, sizeof counts);
    long kb = 0;
    for (int i = 0; i < steps; i++) {
        int32_t action = i & 3;
        if (i == steps / 10) kb = resident_kb();
        counting = 1;
        int32_t status =
            dsa_session_step(session, &action, sizeof action, DSA_BUDGET_NONE, frame, spec.frame_bytes, &tick);
        counting = 0;
        CHECK(status >= 0);
    }
    kb = resident_kb() - kb;
    CHECK(dsa_session_close(session) == DSA_OK);

    long sessions_kb = 0;
    for (int i = 0; i < sessions; i++) {
        int32_t action = 1;
        if (i == sessions / 10) sessions_kb = resident_kb();
        CHECK(dsa_session_open(world, &config, &session) == DSA_OK);
        CHECK(dsa_session_step(session, &action, sizeof action, DSA_BUDGET_NONE, frame, spec.frame_bytes, &tick) >= 0);
        CHECK(dsa_session_close(session) == DSA_OK);
    }
    if (sessions) sessions_kb = resident_kb() - sessions_kb;
    CHECK(dsa_runtime_close(runtime) == DSA_OK);
    printf("dsa=%.3f msgpack=%.3f zmq=%.3f other=%.3f kb=%ld sessions_kb=%ld\n", (double)counts[DSA] / steps,
           (double)counts[MSGPACK] / steps, (double)counts[ZMQ] / steps, (double)counts[OTHER] / steps, kb, sessions_kb);
    free(frame);
    return 0;
}
