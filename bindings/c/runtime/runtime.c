/* Runtimes: the library started, its log, and how what handles stand for ends. */

#include <stdlib.h>

#include "host.h"

DSA_API const char *dsa_library_name(void) { return "libdsa_runtime"; }

/* ---- Logs ---- */

struct line {
    int32_t level;
    const char *message;
};

static void tell(void *data, void *with)
{
    const struct runtime *runtime = data;
    const struct line *line = with;
    if (runtime->log != NULL && line->level >= runtime->level) {
        runtime->log(runtime->user, line->level, line->message);
    }
}

void dsa_host_log(int32_t level, const char *message)
{
    struct line line = {level, message};
    dsa_handles_visit(DSA_KIND_RUNTIME, tell, &line);
}

/* ---- Ending ---- */

void dsa_host_end(enum dsa_kind kind, void *data)
{
    char message[DSA_MESSAGE_BYTES]; /* of what goes wrong, Python has written to the log */
    if (kind == DSA_KIND_WORLD) {
        dsa_py_world_close(((struct world *)data)->id, message);
    } else if (kind == DSA_KIND_SESSION) {
        dsa_py_session_close(((struct session *)data)->id, message);
    }
    free(data);
}

/* ---- Opening and closing ---- */

DSA_API int32_t dsa_runtime_open(const dsa_runtime_config *config, dsa_runtime **runtime)
{
    if (runtime == NULL) {
        return dsa_needs("dsa_runtime_open", "runtime");
    }
    *runtime = NULL;
    dsa_runtime_config ours;
    int32_t status = DSA_TAKE(dsa_runtime_config, &ours, config);
    if (status < 0) {
        return status;
    }
    if (dsa_is_forked()) {
        return dsa_fail(DSA_E_FORKED, "this process was forked after dsa_runtime_open; open it after forking instead");
    }
    status = dsa_python_start(ours.python);
    if (status < 0) {
        return status;
    }
    dsa_notice_forks();
    struct runtime *data = malloc(sizeof *data);
    if (data == NULL) {
        return dsa_fail(DSA_E_MEMORY, "out of memory");
    }
    *data = (struct runtime){ours.log, ours.log_user, ours.log_level};
    dsa_runtime *made = dsa_handle_new(DSA_KIND_RUNTIME, NULL, data);
    if (made == NULL) {
        free(data);
        return DSA_E_MEMORY;
    }
    char message[DSA_MESSAGE_BYTES];
    status = ASK(dsa_py_runtime_open, ours.log == NULL ? INT32_MAX : ours.log_level);
    if (status < 0) {
        dsa_handle_close(made, DSA_KIND_RUNTIME, dsa_host_end);
        return status;
    }
    *runtime = made;
    return DSA_OK;
}

DSA_API int32_t dsa_runtime_close(dsa_runtime *runtime)
{
    return dsa_handle_close(runtime, DSA_KIND_RUNTIME, dsa_host_end);
}
