/* The C half and the Python half of libdsa_runtime. cffi reads this file too and makes these
   functions, so: declarations only.

   What the Python half answers is DSA_PY_ANSWER + a status, so that nothing else, like the 0 that cffi returns where
   Python could not even answer, is taken for success. Its words go to `message`, char[DSA_PY_MESSAGE_BYTES].
   Configurations are complete, never NULL; sizes have been checked. */

enum { DSA_PY_ANSWER = 0x44534100, DSA_PY_MOST_STATUS = 127, DSA_PY_MESSAGE_BYTES = 1024 };

typedef struct dsa_py_stepper {
    void *step;   /* PyObject *: the session's `step` */
    void *action; /* PyObject *: an array that is given to it; NULL: the action is an integer */
    void *values; /* ... and where its values are */
    void *frames; /* PyTypeObject *: of the array that a tick's pictures are */
    void *report; /* PyObject *: called with an exception, returns a status and words as bytes */
} dsa_py_stepper;

/* From its first call on, Python knows a thread until it ends. */
int32_t dsa_py_thread_meet(char *message);
int32_t dsa_py_runtime_open(int32_t log_level, char *message);
int32_t dsa_py_world_open(const dsa_world_config *config, uint64_t *id, dsa_spec *spec, char *message);
int32_t dsa_py_world_close(uint64_t id, char *message);
int32_t dsa_py_session_open(uint64_t world, const dsa_session_config *config, const dsa_controller *controller,
                            uint64_t *id, char *message);
int32_t dsa_py_session_close(uint64_t id, char *message);
int32_t dsa_py_session_prepare(uint64_t id, char *message);
/* Steps do not come this way: the C half calls what this tells it of, the session's until that is closed. */
int32_t dsa_py_session_stepper(uint64_t id, dsa_py_stepper *stepper, char *message);
int32_t dsa_py_session_cancel(uint64_t id, int32_t *cancelled, char *message);
int32_t dsa_py_session_reset(uint64_t id, uint64_t seed, uint8_t *frame, char *message);
int32_t dsa_py_session_rewind(uint64_t id, uint32_t ticks, uint8_t *frame, char *message);
int32_t dsa_py_session_snapshot(uint64_t id, uint8_t *buffer, size_t capacity, size_t *bytes, char *message);
int32_t dsa_py_session_restore(uint64_t id, const uint8_t *snapshot, size_t bytes, uint8_t *frame, char *message);
int32_t dsa_py_session_fork(uint64_t id, uint32_t count, uint64_t *ids, char *message);
int32_t dsa_py_session_configure(uint64_t id, const dsa_controller *controller, char *message);
int32_t dsa_py_session_controller(uint64_t id, dsa_controller *controller, char *message);
int32_t dsa_py_session_set_prompt(uint64_t id, const char *name, char *message);
int32_t dsa_py_session_set_text(uint64_t id, const float *embeddings, uint32_t tokens, char *message);
int32_t dsa_py_session_where(uint64_t id, dsa_session_state *state, char *message);
