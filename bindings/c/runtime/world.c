/* Worlds: opened, described, closed. */

#include <stdlib.h>

#include "host.h"

static int32_t open_world(void *runtime, const dsa_world_config *config, dsa_world **world)
{
    struct world *data = calloc(1, sizeof *data);
    if (data == NULL) {
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    char message[DSA_MESSAGE_BYTES];
    int32_t status = ASK(dsa_py_world_open, config, &data->id, &data->spec);
    if (status < 0) {
        free(data);
        return status;
    }
    *world = dsa_handle_new(DSA_KIND_WORLD, runtime, data);
    if (*world == NULL) {
        dsa_host_end(DSA_KIND_WORLD, data);
        return DSA_E_MEMORY;
    }
    return DSA_OK;
}

DSA_API int32_t dsa_world_open(dsa_runtime *runtime, const dsa_world_config *config, dsa_world **world)
{
    if (world == NULL) {
        return dsa_needs("dsa_world_open", "world");
    }
    *world = NULL;
    dsa_world_config ours;
    void *data;
    int32_t status = DSA_TAKE(dsa_world_config, &ours, config);
    if (status == DSA_OK) {
        status = dsa_enter(runtime, DSA_KIND_RUNTIME, &data);
    }
    if (status == DSA_OK) {
        status = open_world(runtime, &ours, world);
        dsa_leave(runtime);
    }
    return status;
}

DSA_API int32_t dsa_world_close(dsa_world *world) { return dsa_handle_close(world, DSA_KIND_WORLD, dsa_host_end); }

DSA_API int32_t dsa_world_spec(dsa_world *world, dsa_spec *spec)
{
    if (spec == NULL) {
        return dsa_needs("dsa_world_spec", "spec");
    }
    void *data;
    int32_t status = DSA_CHECK_OUTPUT(dsa_spec, spec);
    if (status == DSA_OK) {
        status = dsa_enter(world, DSA_KIND_WORLD, &data);
    }
    if (status == DSA_OK) {
        dsa_copy_out(spec, &((struct world *)data)->spec, sizeof *spec);
        dsa_leave(world);
    }
    return status;
}
