/* What the test programs share. A failed CHECK says where, and ends the program. */

#ifndef DSA_TEST_CHECK_H
#define DSA_TEST_CHECK_H

#include <dsa_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition,        \
                    dsa_last_error());                                                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* The status is as expected, and if it is an error the message holds some words. */
#define EXPECT(status, call, words)                                                                \
    do {                                                                                           \
        int32_t found = (call);                                                                    \
        if (found != (status) || (found < 0 && strstr(dsa_last_error(), (words)) == NULL)) {       \
            fprintf(stderr, "%s:%d: %s: %s, \"%s\"\n", __FILE__, __LINE__, #call,                  \
                    dsa_status_name(found), dsa_last_error());                                     \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Memory of this process that is in use, in KiB. */
static inline long resident_kb(void)
{
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%ld %ld", &pages, &resident) == 2);
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static inline void open_world(const char *path, dsa_runtime **runtime, dsa_world **world, dsa_spec *spec)
{
    dsa_world_config config;
    CHECK(dsa_world_config_init(&config, sizeof config) == DSA_OK);
    config.world = path;
    config.threads = 1;
    CHECK(dsa_runtime_open(NULL, runtime) == DSA_OK);
    CHECK(dsa_world_open(*runtime, &config, world) == DSA_OK);
    CHECK(dsa_spec_init(spec, sizeof *spec) == DSA_OK);
    CHECK(dsa_world_spec(*world, spec) == DSA_OK);
}

#endif
