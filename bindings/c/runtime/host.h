/* What the files of libdsa_runtime's C half know of each other. */

#ifndef DSA_HOST_H
#define DSA_HOST_H

#include "../common/dsa_common.h"
#include "python_calls.h"

/* Start Python from the environment `python` (NULL: look for it), or join the one that runs, and load the Python half.
   Idempotent. DSA_OK or DSA_E_START. */
int32_t dsa_python_start(const char *python);

/* Load the Python half; 0, or -1 and something printed. In the part that cffi writes. */
int32_t dsa_glue_start(void);

/* With Python's lock: make what steps need of it. False: there is an exception. */
bool dsa_step_start(void);

/* Python calls these. 1: Python was started by this library; 0: it was there. */
int32_t dsa_host_owns_python(void);
void dsa_host_log(int32_t level, const char *message);

/* ---- What handles stand for ---- */

struct runtime {
    dsa_log_function log;
    void *user;
    int32_t level;
};

struct world {
    uint64_t id; /* in the Python half */
    dsa_spec spec;
};

struct session {
    uint64_t id;
    void *world; /* handle */
    size_t frame_bytes, tick_bytes, action_bytes;
    uint64_t period_us;
    dsa_py_stepper stepper;
};

/* Close it in the Python half, and free it. */
void dsa_host_end(enum dsa_kind kind, void *data);

/* ---- Answers of the Python half ---- */

/* The status in an answer, and its message. Anything that is none is an error, 0 above all. */
int32_t dsa_status_of(int32_t answer, const char *message);

#define ASK(call, ...) dsa_status_of(call(__VA_ARGS__, message), message)

/* DSA_E_INTERNAL: there is not even an answer. */
int32_t dsa_unanswered(void);

/* DSA_E_ARGUMENT. */
int32_t dsa_needs(const char *function, const char *name);

/* Inside a session: `call` with `session`, `message` and what else is in scope. */
#define INSIDE(handle, call)                                   \
    do {                                                       \
        void *data;                                            \
        status = dsa_enter((handle), DSA_KIND_SESSION, &data); \
        if (status == DSA_OK) {                                \
            const struct session *session = data;              \
            char message[DSA_MESSAGE_BYTES];                   \
            status = (call);                                   \
            dsa_leave(handle);                                 \
        }                                                      \
    } while (0)

#endif
