/* What both libraries are made of: errors, structs of any age, handles that notice misuse. Not for users. */

#ifndef DSA_COMMON_H
#define DSA_COMMON_H

#include <stdbool.h>

#include "../dsa_runtime.h"

/* ---- Errors ---- */

enum { DSA_MESSAGE_BYTES = 1024 };

/* Remember a message for dsa_last_error of this thread; returns status. */
__attribute__((format(printf, 2, 3))) int32_t dsa_fail(int32_t status, const char *format, ...);

/* Microseconds of a clock that only goes forward. */
double dsa_now_us(void);

/* ---- Structs ---- */

/* What the structs had in version 1.0 of the header, whose programs are served as before: the size where it is another
   one by now. All that came later is 0 by default. */
enum {
    DSA_FIRST_dsa_runtime_config = sizeof(dsa_runtime_config),
    DSA_FIRST_dsa_world_config = sizeof(dsa_world_config),
    DSA_FIRST_dsa_session_config = offsetof(dsa_session_config, prompt),
    DSA_FIRST_dsa_controller = sizeof(dsa_controller),
    DSA_FIRST_dsa_spec = offsetof(dsa_spec, frames_per_tick),
    DSA_FIRST_dsa_tick = sizeof(dsa_tick),
    DSA_FIRST_dsa_session_state = sizeof(dsa_session_state)
};

/* DSA_OK, or DSA_E_STRUCT: the struct_size of what a caller gave is that of no version (`first`: of the first one;
   `known`: of the one known here; anything larger may be a later one's), or fields behind those known here are set. Out
   structs may be longer: `is_input` is false. */
int32_t dsa_check_struct(const char *name, const void *given, size_t first, size_t known, bool is_input);

#define DSA_CHECK_OUTPUT(type, pointer) dsa_check_struct(#type, (pointer), DSA_FIRST_##type, sizeof(type), false)

/* Our complete struct from a caller's that may be NULL, older or newer: `ours` must have its defaults. */
int32_t dsa_take(const char *name, void *ours, size_t known, const void *given, size_t first);

#define DSA_TAKE(type, ours, given) \
    (type##_init((ours), sizeof(type)), dsa_take(#type, (ours), sizeof(type), (given), DSA_FIRST_##type))

/* Fill a caller's checked struct from one of ours, of `known` bytes; its struct_size stays. */
void dsa_copy_out(void *given, const void *ours, size_t known);

/* ---- Handles ----

   A handle is a number in a pointer's clothes: a place in a table and the generation of what lies there. Places are
   used again, generations are not, so a closed handle is never mistaken for a newer one. */

enum dsa_kind { DSA_KIND_RUNTIME = 1, DSA_KIND_WORLD = 2, DSA_KIND_SESSION = 3 };

/* A handle for `data`, to be closed with its parent (NULL for a runtime). The caller must be inside the parent
   (dsa_enter) or inside one of its children.
   NULL and DSA_E_MEMORY's message if there is no room. */
void *dsa_handle_new(enum dsa_kind kind, void *parent, void *data);

/* Come in: *data is valid until dsa_leave. A session takes one thread at a time (DSA_E_BUSY); runtimes and worlds any
   number. DSA_E_HANDLE for what is closed, NULL or something else; DSA_E_FORKED. No locks, no allocation. */
int32_t dsa_enter(void *handle, enum dsa_kind kind, void **data);
void dsa_leave(void *handle);

/* Come in beside the one thread of a session. */
int32_t dsa_enter_beside(void *handle, enum dsa_kind kind, void **data);
/* ... to stop that thread's call: while a close waits for it, too. */
int32_t dsa_enter_to_stop(void *handle, enum dsa_kind kind, void **data);
void dsa_leave_beside(void *handle);

/* Close a handle and those below it. From now on nobody comes in; those who are in are waited for; then `end` is
   called for each, children first. NULL: nothing, DSA_OK. A second close: DSA_E_HANDLE. */
typedef void (*dsa_end)(enum dsa_kind kind, void *data);
int32_t dsa_handle_close(void *handle, enum dsa_kind kind, dsa_end end);

/* Call `visit` with the data of every open handle of a kind. Nothing of that kind is closed meanwhile. */
void dsa_handles_visit(enum dsa_kind kind, void (*visit)(void *data, void *with), void *with);

/* From now on a child made by fork() gets DSA_E_FORKED. */
void dsa_notice_forks(void);
bool dsa_is_forked(void);

/* ---- Steps ---- */

/* What dsa_session_step or dsa_session_step_exactly was called with. */
struct dsa_step {
    const void *action;
    size_t action_bytes;
    uint64_t budget_us;
    uint32_t steps; /* 0: the controller's choice */
    uint8_t *frame;
    size_t frame_bytes;
    dsa_tick *tick;
    double called_us;
};

/* Each library's own: the step, however it is made. */
int32_t dsa_step_run(dsa_session *session, const struct dsa_step *step);

/* Whether its buffers fit a world whose actions, and the pictures of a tick, have so many bytes. */
int32_t dsa_step_check(const struct dsa_step *step, size_t action_bytes, size_t tick_bytes);
/* Tell the caller what the tick came to, if that is wanted. Sets its call_us. */
void dsa_step_answer(const struct dsa_step *step, dsa_tick *tick);

/* DSA_OK if pictures of `needed` bytes fit, or are not wanted. */
int32_t dsa_check_frame(const uint8_t *frame, size_t frame_bytes, size_t needed);

#endif
