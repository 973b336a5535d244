/* A host that knows the library at run time only, as engines load their plug-ins.

     cc -std=c11 plugin_host.c -o plugin_host -ldl
     ./plugin_host /DIR/libdsa_runtime.so      (or libdsa_client.so)

   RTLD_LOCAL is what most plug-in loaders use; both libraries work with it. */

#include <dlfcn.h>
#include <dsa_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The functions that the host uses, with the types of the header. */
#define FUNCTIONS(DO)                                                                                      \
    DO(dsa_version) DO(dsa_library_name) DO(dsa_last_error) DO(dsa_runtime_open) DO(dsa_runtime_close)     \
    DO(dsa_world_config_init) DO(dsa_world_open) DO(dsa_world_spec) DO(dsa_spec_init) DO(dsa_session_open) \
    DO(dsa_session_prepare) DO(dsa_session_step) DO(dsa_tick_init)

static struct {
#define DECLARE(name) __typeof__(&name) name;
    FUNCTIONS(DECLARE)
#undef DECLARE
} dsa;

static int load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "plugin_host: %s\n", dlerror());
        return -1;
    }
    void *found;
#define FIND(name)                                                   \
    found = dlsym(library, #name);                                   \
    if (found == NULL) {                                             \
        fprintf(stderr, "plugin_host: %s has no %s\n", path, #name); \
        return -1;                                                   \
    }                                                                \
    memcpy(&dsa.name, &found, sizeof found); /* ISO C has no other way from void * to a function */
    FUNCTIONS(FIND)
#undef FIND
    if (dsa.dsa_version() / 1000000 != DSA_VERSION_MAJOR || dsa.dsa_version() < DSA_VERSION) {
        fprintf(stderr, "plugin_host: %s is of version %u, the host needs %u\n", path, (unsigned)dsa.dsa_version(),
                (unsigned)DSA_VERSION);
        return -1;
    }
    return 0; /* and it stays loaded: a library that has started Python cannot be taken out again */
}

static int play(dsa_runtime *runtime, const char *name, long ticks)
{
    dsa_world *world = NULL;
    dsa_session *session = NULL;
    dsa_world_config which;
    dsa_spec spec;
    dsa_tick tick;
    dsa.dsa_world_config_init(&which, sizeof which);
    dsa.dsa_spec_init(&spec, sizeof spec);
    dsa.dsa_tick_init(&tick, sizeof tick);
    which.world = name;
    if (dsa.dsa_world_open(runtime, &which, &world) < 0 || dsa.dsa_world_spec(world, &spec) < 0 ||
        dsa.dsa_session_open(world, NULL, &session) < 0 || dsa.dsa_session_prepare(session) < 0) {
        return -1;
    }
    uint8_t *frame = malloc(spec.tick_bytes);
    void *action = calloc(1, spec.action_bytes); /* 0 is an action of most worlds */
    int32_t status = frame == NULL || action == NULL ? DSA_E_MEMORY : DSA_OK;
    for (long i = 0; i < ticks && status >= 0; i++) {
        status = dsa.dsa_session_step(session, action, spec.action_bytes, DSA_BUDGET_PERIOD, frame, spec.tick_bytes,
                                      &tick);
    }
    if (status >= 0) {
        printf("%s: %s, tick %llu, %u steps\n", dsa.dsa_library_name(), spec.name, (unsigned long long)tick.tick,
               (unsigned)tick.steps);
    }
    free(action);
    free(frame);
    return status < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "plugin_host LIBRARY [WORLD [TICKS]]\n");
        return 2;
    }
    dsa_runtime *runtime = NULL;
    if (load(argv[1])) {
        return 1;
    }
    if (dsa.dsa_runtime_open(NULL, &runtime) < 0 ||
        play(runtime, argc > 2 ? argv[2] : NULL, argc > 3 ? strtol(argv[3], NULL, 10) : 60) < 0) {
        fprintf(stderr, "plugin_host: %s\n", dsa.dsa_last_error());
        dsa.dsa_runtime_close(runtime);
        return 1;
    }
    return dsa.dsa_runtime_close(runtime) < 0;
}
