/* Threads: a second one on a session is refused, sessions run side by side, calls are cancelled, closing waits.
   threads WORLD */

#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "check.h"

enum { THREADS = 4, TICKS = 100, ROUNDS = 20 };

static dsa_spec spec;
static dsa_world *world;
static dsa_session *shared;
static atomic_bool stop;
static atomic_int done, busy, cancelled, ended;
static uint64_t sums[THREADS + 1];

static int32_t step(dsa_session *session, uint8_t *frame)
{
    int32_t action = 2;
    return dsa_session_step_exactly(session, &action, sizeof action, 4, DSA_BUDGET_NONE, frame, spec.frame_bytes, NULL);
}

/* Uses the shared session until told to stop or until it is closed. */
static void *hammer(void *nothing)
{
    uint8_t *frame = malloc(spec.frame_bytes);
    (void)nothing;
    CHECK(frame != NULL);
    while (!atomic_load(&stop)) {
        int32_t status = step(shared, frame);
        if (status == DSA_OK) atomic_fetch_add(&done, 1);
        else if (status == DSA_E_BUSY) atomic_fetch_add(&busy, 1);
        else if (status == DSA_E_CANCELLED) atomic_fetch_add(&cancelled, 1);
        else {
            EXPECT(DSA_E_HANDLE, status, "closed");
            break;
        }
        /* The message is this thread's own. */
        if (status == DSA_E_BUSY) CHECK(strstr(dsa_last_error(), "another thread") != NULL);
        if (status == DSA_E_CANCELLED) CHECK(strstr(dsa_last_error(), "cancelled") != NULL);
    }
    atomic_fetch_add(&ended, 1);
    free(frame);
    return NULL;
}

static void *alone(void *sum)
{
    dsa_session *session;
    uint8_t *frame = malloc(spec.frame_bytes);
    CHECK(frame != NULL);
    CHECK(dsa_session_open(world, NULL, &session) == DSA_OK);
    for (int i = 0; i < TICKS; i++) {
        CHECK(step(session, frame) == DSA_OK);
        for (size_t k = 0; k < spec.frame_bytes; k++) *(uint64_t *)sum = *(uint64_t *)sum * 31 + frame[k];
    }
    CHECK(dsa_session_close(session) == DSA_OK);
    free(frame);
    return NULL;
}

static void pause_us(long us)
{
    struct timespec time = {0, us * 1000};
    nanosleep(&time, NULL);
}

int main(int count, char **arguments)
{
    dsa_runtime *runtime;
    pthread_t threads[THREADS];
    CHECK(count == 2);
    open_world(arguments[1], &runtime, &world, &spec);

    /* Side by side: the same frames as alone. */
    alone(&sums[THREADS]);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, alone, &sums[i]) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0 && sums[i] == sums[THREADS]);

    /* All on one: until each outcome has been seen. */
    CHECK(dsa_session_open(world, NULL, &shared) == DSA_OK);
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, hammer, NULL) == 0);
    while (!atomic_load(&done) || !atomic_load(&busy) || !atomic_load(&cancelled)) {
        int32_t hit;
        CHECK(dsa_session_cancel(shared, &hit) == DSA_OK && (hit == 0 || hit == 1));
        pause_us(50);
    }
    CHECK(dsa_session_close(shared) == DSA_OK); /* in the middle of their steps */
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(atomic_load(&ended) == 2);

    /* Closing everything from two sides, while a third thread works. */
    for (int round = 0; round < ROUNDS; round++) {
        CHECK(dsa_session_open(world, NULL, &shared) == DSA_OK);
        CHECK(pthread_create(&threads[0], NULL, hammer, NULL) == 0);
        pause_us(200);
        CHECK(pthread_create(&threads[1], NULL, hammer, NULL) == 0);
        if (round + 1 < ROUNDS) CHECK(dsa_session_close(shared) == DSA_OK);
        else CHECK(dsa_runtime_close(runtime) == DSA_OK);
        CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
    }
    puts("ok");
    return 0;
}
