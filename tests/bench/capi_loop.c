/* What bench_capi measures with, linked with either library. Does what lines on its standard input say, and prints series
   of microseconds: a name, then the values; at the end of each, "done". First of all it prints how long starting took.

   capi_loop WORLD THREADS
     calls TICKS PAUSE     steps without a budget, PAUSE us apart: `call`, from call to return; `overhead`, the part that
                           the SDK does not say it took
     native TICKS RATE     a loop that sleeps until the next period: `woke`, how late
     paced TICKS RATE      a loop that then steps with a budget of a period: `woke`; `ready`, until it has the frame, from
                           the same moment on; `overhead`; `steps`; `late`, whether the status was another than DSA_OK */

#define _POSIX_C_SOURCE 200809L
#include <dsa_runtime.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(call)                                                                     \
    do {                                                                                \
        if ((call) < 0) {                                                               \
            fprintf(stderr, "%s: %s\n", #call, dsa_last_error());                       \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static void sleep_until_us(double us)
{
    struct timespec at;
    at.tv_sec = (time_t)(us * 1e-6);
    at.tv_nsec = (long)((us - (double)at.tv_sec * 1e6) * 1e3);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) {
    }
}

static void print(const char *name, double *values, int count)
{
    printf("%s", name);
    for (int i = 0; i < count; i++) printf(" %.2f", values[i]);
    printf("\n");
    free(values);
}

static double *series(int count)
{
    double *values = calloc((size_t)count, sizeof *values); /* written to, so that no page is new later */
    if (values == NULL) exit(1);
    for (int i = 0; i < count; i++) values[i] = 0.5;
    return values;
}

static dsa_session *session;
static dsa_spec spec;
static uint8_t *frame, *action;

static int32_t step(uint64_t budget_us, int number, dsa_tick *tick)
{
    if (spec.action_type == DSA_DISCRETE) {
        int32_t choice = number / 20 % (int32_t)spec.action_count;
        memcpy(action, &choice, sizeof choice);
    }
    int32_t status = dsa_session_step(session, action, spec.action_bytes, budget_us, frame, spec.frame_bytes, tick);
    CHECK(status);
    return status;
}

static void calls(int ticks, double pause_us, dsa_tick *tick)
{
    double *call = series(ticks), *overhead = series(ticks);
    for (int i = 0; i < ticks; i++) {
        if (pause_us > 0) sleep_until_us(now_us() + pause_us);
        double began = now_us();
        step(DSA_BUDGET_NONE, i, tick);
        call[i] = now_us() - began;
        overhead[i] = call[i] - tick->total_us;
    }
    print("call", call, ticks);
    print("overhead", overhead, ticks);
}

static void native(int ticks, double rate)
{
    double *woke = series(ticks), next = now_us();
    for (int i = 0; i < ticks; i++) {
        next += 1e6 / rate;
        sleep_until_us(next);
        woke[i] = now_us() - next;
    }
    print("woke", woke, ticks);
}

static void paced(int ticks, double rate, dsa_tick *tick)
{
    double period = 1e6 / rate, next = now_us();
    double *woke = series(ticks), *ready = series(ticks), *overhead = series(ticks), *steps = series(ticks);
    double *late = series(ticks);
    for (int i = 0; i < ticks; i++) {
        next += period;
        if (now_us() > next + 2 * period) next = now_us(); /* never catch up in a burst */
        sleep_until_us(next);
        double awake = now_us();
        woke[i] = awake - next;
        late[i] = step((uint64_t)period, i, tick) != DSA_OK;
        ready[i] = now_us() - next;
        overhead[i] = now_us() - awake - tick->total_us;
        steps[i] = tick->steps;
    }
    print("woke", woke, ticks);
    print("ready", ready, ticks);
    print("overhead", overhead, ticks);
    print("steps", steps, ticks);
    print("late", late, ticks);
}

int main(int count, char **arguments)
{
    dsa_runtime *runtime;
    dsa_world *world;
    dsa_world_config config;
    dsa_tick tick;
    if (count != 3) return 2;
    CHECK(dsa_world_config_init(&config, sizeof config));
    CHECK(dsa_spec_init(&spec, sizeof spec));
    CHECK(dsa_tick_init(&tick, sizeof tick));
    config.world = arguments[1][0] == '\0' ? NULL : arguments[1];
    config.threads = (uint32_t)atoi(arguments[2]);

    double began[6];
    began[0] = now_us();
    CHECK(dsa_runtime_open(NULL, &runtime));
    began[1] = now_us();
    CHECK(dsa_world_open(runtime, &config, &world));
    began[2] = now_us();
    CHECK(dsa_session_open(world, NULL, &session));
    began[3] = now_us();
    CHECK(dsa_session_prepare(session));
    began[4] = now_us();
    CHECK(dsa_world_spec(world, &spec));
    frame = malloc(spec.frame_bytes);
    action = calloc(1, spec.action_bytes);
    if (frame == NULL || action == NULL) return 1;
    for (uint32_t i = 0; spec.action_type == DSA_BOX && i < spec.action_count; i++) {
        memcpy(action + 4 * i, &spec.action_low[i], 4);
    }
    step(DSA_BUDGET_NONE, 0, &tick);
    began[5] = now_us();
    printf("start %.0f %.0f %.0f %.0f %.0f\n", began[1] - began[0], began[2] - began[1], began[3] - began[2],
           began[4] - began[3], began[5] - began[4]);

    fflush(stdout);
    char what[16];
    int ticks;
    double number;
    while (scanf("%15s %d %lf", what, &ticks, &number) == 3) {
        if (strcmp(what, "calls") == 0) calls(ticks, number, &tick);
        else if (strcmp(what, "native") == 0) native(ticks, number);
        else paced(ticks, number, &tick);
        printf("done\n");
        fflush(stdout);
    }
    CHECK(dsa_runtime_close(runtime));
    return 0;
}
