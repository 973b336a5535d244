/* A host of plugins: loads the library so that nobody else sees its symbols, plays, and lets it go.
   plugin LIBRARY WORLD */

#include <dlfcn.h>

#include "check.h"

#define LOAD(name) (*(void **)&p_##name = dlsym(library, #name), p_##name != NULL)

int main(int count, char **arguments)
{
    if (count != 3) return 2;
    for (int round = 0; round < 2; round++) {
        void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
        int32_t (*p_dsa_runtime_open)(const dsa_runtime_config *, dsa_runtime **);
        int32_t (*p_dsa_runtime_close)(dsa_runtime *);
        int32_t (*p_dsa_world_config_init)(dsa_world_config *, size_t);
        int32_t (*p_dsa_world_open)(dsa_runtime *, const dsa_world_config *, dsa_world **);
        int32_t (*p_dsa_session_open)(dsa_world *, const dsa_session_config *, dsa_session **);
        int32_t (*p_dsa_session_step)(dsa_session *, const void *, size_t, uint64_t, uint8_t *, size_t, dsa_tick *);
        const char *(*p_dsa_last_error)(void);
        if (library == NULL || !LOAD(dsa_runtime_open) || !LOAD(dsa_runtime_close) || !LOAD(dsa_world_config_init) ||
            !LOAD(dsa_world_open) || !LOAD(dsa_session_open) || !LOAD(dsa_session_step) || !LOAD(dsa_last_error)) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        dsa_runtime *runtime;
        dsa_world *world;
        dsa_session *session;
        dsa_world_config config;
        int32_t action = 1;
        p_dsa_world_config_init(&config, sizeof config);
        config.world = arguments[2];
        if (p_dsa_runtime_open(NULL, &runtime) < 0 || p_dsa_world_open(runtime, &config, &world) < 0 ||
            p_dsa_session_open(world, NULL, &session) < 0 ||
            p_dsa_session_step(session, &action, sizeof action, DSA_BUDGET_NONE, NULL, 0, NULL) < 0 ||
            p_dsa_runtime_close(runtime) < 0) {
            fprintf(stderr, "%s\n", p_dsa_last_error());
            return 1;
        }
        dlclose(library);
    }
    puts("ok");
    return 0;
}
