/* Counts what a step allocates, on the thread that steps and in the whole process, and what memory it keeps.

   count WORLD STEPS SESSIONS [BYTES_MOST]: prints "thread=N process=N kb=N sessions_kb=N" */

#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#include "check.h"

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static _Thread_local int here;
static _Thread_local long thread_count;
static atomic_int counting;
static atomic_long process_count;

static void note(void)
{
    if (atomic_load_explicit(&counting, memory_order_relaxed)) {
        atomic_fetch_add_explicit(&process_count, 1, memory_order_relaxed);
        thread_count += here;
    }
}

void *malloc(size_t bytes) { note(); return __libc_malloc(bytes); }
void *calloc(size_t count, size_t bytes) { note(); return __libc_calloc(count, bytes); }
void *realloc(void *old, size_t bytes) { note(); return __libc_realloc(old, bytes); }
void *memalign(size_t alignment, size_t bytes) { note(); return __libc_memalign(alignment, bytes); }
void *aligned_alloc(size_t alignment, size_t bytes) { note(); return __libc_memalign(alignment, bytes); }

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    note();
    *out = __libc_memalign(alignment, bytes);
    return *out == NULL ? ENOMEM : 0;
}

int main(int count, char **arguments)
{
    dsa_runtime *runtime;
    dsa_world *world;
    dsa_session *session;
    dsa_spec spec;
    dsa_tick tick;
    CHECK(count == 4);
    int steps = atoi(arguments[2]), sessions = atoi(arguments[3]);
    open_world(arguments[1], &runtime, &world, &spec);
    CHECK(dsa_session_open(world, NULL, &session) == DSA_OK);
    CHECK(dsa_session_prepare(session) == DSA_OK);
    CHECK(dsa_tick_init(&tick, sizeof tick) == DSA_OK);
    uint8_t *frame = malloc(spec.frame_bytes);
    CHECK(frame != NULL);

    long kb = 0;
    for (int i = 0; i < steps; i++) {
        int32_t action = i & 3;
        if (i == steps / 10) {
            kb = resident_kb();
            here = 1;
            atomic_store(&counting, 1);
        }
        CHECK(dsa_session_step(session, &action, sizeof action, DSA_BUDGET_NONE, frame, spec.frame_bytes, &tick) >= 0);
    }
    atomic_store(&counting, 0);
    kb = resident_kb() - kb;
    CHECK(dsa_session_close(session) == DSA_OK);

    long sessions_kb = 0;
    for (int i = 0; i < sessions; i++) {
        int32_t action = 1;
        if (i == sessions / 10) sessions_kb = resident_kb();
        CHECK(dsa_session_open(world, NULL, &session) == DSA_OK);
        CHECK(dsa_session_step(session, &action, sizeof action, DSA_BUDGET_NONE, frame, spec.frame_bytes, &tick) >= 0);
        CHECK(dsa_session_close(session) == DSA_OK);
    }
    if (sessions) sessions_kb = resident_kb() - sessions_kb;
    CHECK(dsa_runtime_close(runtime) == DSA_OK);
    double ticks = steps - steps / 10;
    printf("thread=%.3f process=%.3f kb=%ld sessions_kb=%ld\n", (double)thread_count / ticks,
           (double)atomic_load(&process_count) / ticks, kb, sessions_kb);
    free(frame);
    return 0;
}
