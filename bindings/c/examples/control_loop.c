/* A control loop at a fixed rate: a deadline per tick, and a policy for ticks that miss it.

     cc -std=c11 control_loop.c -o control_loop -ldsa_runtime      (or -ldsa_client)
     ./control_loop --ticks 600

   With --hz the loop's rate; otherwise it is the world's. The budget is a part of the period: the rest is for what the
   loop does with the frame. A tick that misses its budget shows the frame before (DSA_ON_MISS_REPEAT), so the loop
   itself is never late because of the world. For a quiet timing, run it with SCHED_FIFO (chrt -f 10 ./control_loop). */

#define _POSIX_C_SOURCE 200809L
#include <dsa_runtime.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char USAGE[] =
    "control_loop [--world NAME] [--seed N] [--ticks N] [--hz RATE] [--share PART_OF_THE_PERIOD] [--recover] [--fast]\n";

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void sleep_until(int64_t due_us)
{
    struct timespec due = {.tv_sec = (time_t)(due_us / 1000000), .tv_nsec = (long)(due_us % 1000000) * 1000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) {
    }
}

static int compare(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void on_log(void *user, int32_t level, const char *message)
{
    (void)user, (void)level;
    fprintf(stderr, "control_loop: %s\n", message);
}

/* Whatever moves: each action is held for 8 ticks. */
static void act(const dsa_spec *spec, uint64_t tick, void *action)
{
    uint64_t turn = tick / 8;
    if (spec->action_type == DSA_DISCRETE) {
        int32_t choice = (int32_t)(turn % spec->action_count);
        memcpy(action, &choice, sizeof choice);
        return;
    }
    for (uint32_t i = 0; i < spec->action_count; i++) {
        if (spec->action_type == DSA_MULTI_BINARY) {
            ((uint8_t *)action)[i] = (uint8_t)((turn + i) % 2);
        } else {
            float share = (float)((turn + i) % 5) / 4;
            ((float *)action)[i] = spec->action_low[i] + share * (spec->action_high[i] - spec->action_low[i]);
        }
    }
}

static int fail(const char *what)
{
    fprintf(stderr, "control_loop: %s: %s\n", what, dsa_last_error());
    return 1;
}

struct options {
    const char *world;
    uint64_t seed, ticks;
    double hz, share;
    int32_t recover, fast;
};

static int read_options(int argc, char **argv, struct options *options)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--recover")) {
            options->recover = 1;
        } else if (!strcmp(argv[i], "--fast")) {
            options->fast = 1;
        } else if (!strcmp(argv[i], "--world") && *value) {
            options->world = value, i++;
        } else if (!strcmp(argv[i], "--seed") && *value) {
            options->seed = strtoull(value, NULL, 10), i++;
        } else if (!strcmp(argv[i], "--ticks") && *value) {
            options->ticks = strtoull(value, NULL, 10), i++;
        } else if (!strcmp(argv[i], "--hz") && *value) {
            options->hz = strtod(value, NULL), i++;
        } else if (!strcmp(argv[i], "--share") && *value) {
            options->share = strtod(value, NULL), i++;
        } else {
            return -1;
        }
    }
    return options->ticks > 0 && options->share > 0 ? 0 : -1;
}

static int run(dsa_session *session, const dsa_spec *spec, const struct options *options)
{
    uint64_t counts[4] = {0}, steps = 0;
    int64_t period_us = options->hz > 0 ? (int64_t)(1e6 / options->hz) : (int64_t)spec->period_us;
    uint64_t budget_us = (uint64_t)((double)period_us * options->share);
    uint8_t *frame = malloc(spec->tick_bytes);
    void *action = malloc(spec->action_bytes);
    int64_t *calls_us = malloc(options->ticks * sizeof *calls_us);
    if (frame == NULL || action == NULL || calls_us == NULL) {
        fprintf(stderr, "control_loop: out of memory\n");
        return 1;
    }
    int result = 0;
    int64_t due_us = now_us();
    for (uint64_t i = 0; i < options->ticks; i++) {
        dsa_tick tick;
        dsa_tick_init(&tick, sizeof tick);
        act(spec, i, action);
        int32_t status =
            dsa_session_step(session, action, spec->action_bytes, budget_us, frame, spec->tick_bytes, &tick);
        if (status < 0) {
            result = fail(dsa_status_name(status));
            break;
        }
        /* Here a controller would look at the frame, knowing by tick.frame_tick how old it is. */
        counts[status]++;
        steps += tick.steps;
        calls_us[i] = (int64_t)tick.call_us;
        due_us += period_us;
        /* After a pause of the machine, go on from now: ticks are not caught up with in a burst. */
        if (options->fast || due_us < now_us() - period_us) {
            due_us = now_us();
        } else {
            sleep_until(due_us);
        }
    }
    if (result == 0) {
        qsort(calls_us, options->ticks, sizeof *calls_us, compare);
        printf("library=%s ticks=%" PRIu64 " ok=%" PRIu64 " late=%" PRIu64 " repeated=%" PRIu64 " skipped=%" PRIu64
               " mean_steps=%.2f call_us_p50=%" PRId64 " call_us_p99=%" PRId64 "\n",
               dsa_library_name(), options->ticks, counts[DSA_OK], counts[DSA_LATE], counts[DSA_REPEATED],
               counts[DSA_SKIPPED], (double)steps / (double)options->ticks, calls_us[options->ticks / 2],
               calls_us[options->ticks * 99 / 100]);
    }
    free(calls_us);
    free(action);
    free(frame);
    return result;
}

int main(int argc, char **argv)
{
    struct options options = {.ticks = 600, .share = 0.8};
    if (read_options(argc, argv, &options)) {
        fputs(USAGE, stderr);
        return 2;
    }
    dsa_runtime *runtime = NULL;
    dsa_world *world = NULL;
    dsa_session *session = NULL;
    dsa_runtime_config start;
    dsa_world_config which;
    dsa_session_config how;
    dsa_spec spec;
    dsa_runtime_config_init(&start, sizeof start);
    dsa_world_config_init(&which, sizeof which);
    dsa_session_config_init(&how, sizeof how);
    dsa_spec_init(&spec, sizeof spec);
    start.log = on_log;
    which.world = options.world;
    how.seed = options.seed;
    how.on_miss = DSA_ON_MISS_REPEAT;
    how.recover = options.recover;
    if (dsa_runtime_open(&start, &runtime) < 0) return fail("runtime");
    int result = 0;
    if (dsa_world_open(runtime, &which, &world) < 0 || dsa_world_spec(world, &spec) < 0) {
        result = fail("world");
    } else if (dsa_session_open(world, &how, &session) < 0 || dsa_session_prepare(session) < 0) {
        result = fail("session");
    } else {
        result = run(session, &spec, &options);
    }
    dsa_runtime_close(runtime);
    return result;
}
