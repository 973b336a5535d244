/* What the parts of libdsa_client know of each other: runtime, world, session. Not for users. */

#ifndef DSA_CLIENT_H
#define DSA_CLIENT_H

#include <pthread.h>

#include "channel.h"
#include "journal.h"
#include "ring.h"

enum { TEXT_BYTES = 256 };

/* ---- Runtime: the connection ---- */

struct welcome {
    uint64_t epoch;
    bool has_shm;
};

struct heartbeat {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_running, has_ended, is_new; /* under the lock */
    struct channel channel;             /* the thread's */
    struct request request;
};

struct runtime {
    struct link link;
    int32_t frames, log_level;
    dsa_log_function log;
    void *log_user;
    pthread_mutex_t logging;
    pthread_mutex_t asking; /* what follows */
    struct channel control;
    struct request request;
    struct reply reply;
    struct welcome welcome;
    struct heartbeat heartbeat;
};

/* Tell the log, if it wants to hear this. */
__attribute__((format(printf, 3, 4))) void runtime_log(struct runtime *runtime, int32_t level, const char *format, ...);

void build_hello(struct channel *channel, struct request *request);
/* What the welcome says. DSA_E_GONE if the server has not the world of that name and fingerprint; both may be NULL. */
int32_t read_welcome(struct reply *reply, const char *world, const char *fingerprint, struct welcome *welcome);

/* Ask something that is about no session, until it is answered: `build` makes the request, on the channel's epoch. On
   DSA_OK the reply is in runtime->reply and `runtime->asking` is held: call control_done. */
typedef void (*build_function)(void *with, struct channel *channel, struct request *request);
int32_t control_ask(struct runtime *runtime, build_function build, void *with);
void control_done(struct runtime *runtime);
/* Whether the step of a session, with that id, was stopped. False, too, where that cannot be known. */
bool control_cancel(struct runtime *runtime, uint64_t epoch, uint64_t sid, uint64_t of);

/* The status that an error of the server stands for, and its words as dsa_last_error. */
int32_t refused(const struct reply *reply);
bool is_error(const struct reply *reply);
bool has_code(const struct reply *reply, const char *code);

/* Leases are renewed while sessions are not stepped. */
int32_t heartbeat_open(struct heartbeat *heartbeat, const struct link *link);
int32_t heartbeat_start(struct runtime *runtime); /* idempotent; a session has come */
void heartbeat_close(struct heartbeat *heartbeat);

/* ---- World ---- */

struct world {
    struct runtime *runtime;
    dsa_spec spec;
    char *texts;         /* all of them, one after the other */
    size_t texts_used, texts_bytes;
    const char **names;  /* of actions, then their units */
    const char **prompts;
    float *bounds;       /* lows, then highs */
    double *levels;
};

void world_free(struct world *world);

/* DSA_OK, or DSA_E_ACTION and why. */
int32_t check_action(const dsa_spec *spec, const void *action);
void put_action(struct request *request, const dsa_spec *spec, const void *action);

/* json_text.c: a string at the top of a JSON object, decoded into `target`, which has room for `size` bytes and gets a 0
   at its end. False if it is not there. */
bool json_top_text(const char *json, size_t bytes, const char *name, char *target, size_t size);

/* ---- Session ---- */

enum stage { AT_HELLO, AT_OPEN, AT_FRAMES, AT_RESTORE, AT_REPLAY, AT_PROMPT, AT_CONTROLLER, PLACED };
enum phase { IDLE, WAITING, ASKING }; /* what dsa_session_cancel has to stop */
enum step_kind { NO_STEP, THIS_STEP, LATE_STEP };

struct session;
typedef void (*job_build)(struct session *session, struct request *request, const void *with);

/* A request about the session, which is made anew where the session has found a new place. */
struct job {
    job_build build;
    const void *with;
    bool is_built;
    bool is_move; /* takes the session elsewhere without counting a tick */
};

/* What a step asks for. */
struct wish {
    void *action;
    uint32_t steps;     /* 0: as the controller decides */
    uint64_t budget_us; /* as given; left of it: */
    uint64_t left_us;
};

struct session {
    struct runtime *runtime;
    struct world *world;
    dsa_world *world_handle;
    uint32_t history, lease_ms;
    int32_t on_miss;
    bool recover, use_shm;
    dsa_controller controller;
    bool has_controller;      /* one was given */
    bool controller_changed;  /* since the journal began */

    struct channel channel;
    struct request request, place_request, small_request; /* jobs; those of a new place; what is posted */
    struct reply reply;
    struct ring ring;
    struct journal journal;
    bool checkpoint_posted;

    _Atomic uint64_t tick, seed; /* as dsa_session_where tells */
    uint64_t confirmed;          /* the tick that the server has said is next */

    /* A step that went on after its call had returned, without the server's word. */
    bool is_late;
    struct job step;
    struct wish wish;
    uint8_t *newest; /* the pictures of the newest frame, and its tick; only with DSA_ON_MISS_REPEAT */
    int64_t newest_tick;
    double way_us;   /* how long the way there and back takes at most: a maximum that fades */

    /* Looking for a place. */
    enum stage stage;
    bool is_asking, was_placed, was_recovered;
    uint32_t replayed;
    const struct prompt *next_prompt; /* of the journal, that has not come again yet */
    uint64_t key;
    double lost_at, pause_until;
    uint64_t left_epoch, left_sid; /* a place that may still be held */
    bool is_lost;                  /* for good */
    char why[TEXT_BYTES];

    pthread_mutex_t lock; /* what follows: the heartbeat and cancels look at it */
    bool is_placed;
    uint64_t epoch, sid;
    double lease_us, touched;
    enum phase phase;
    uint64_t asked_id; /* of the step, while it is ASKING */
    _Atomic bool stop;
    bool is_handed; /* by a draining server */
    uint64_t handed_tick;
    zmq_msg_t handed;
};

enum { NOT_YET = 100 }; /* beside the statuses: the time is over, go on with the same job */

/* place.c. Do a job: its reply is in session->reply, to be dropped, if this is DSA_OK. NOT_YET: `until` has come (or the
   step was cancelled: session->stop). Statuses below 0: it has not happened. */
int32_t place_do(struct session *session, struct job *job, double until, enum step_kind kind);
/* The session has lost its place; `why` is for people. It may find another one if it is to recover. */
void place_lose(struct session *session, bool is_held, const char *why);
/* A draining server gives the session back. Any thread. */
void place_hand_over(struct session *session, struct reply *reply);
void place_leave(struct session *session);

/* search.c. DSA_OK: the session has a place. NOT_YET. Otherwise it has none, for now. */
int32_t place_find(struct session *session, double until);
/* False: the system has none. */
bool random_number(uint64_t *number);

/* controller.c */
int32_t check_controller(const dsa_controller *controller);
void put_controller(struct request *request, const dsa_controller *controller);
void read_controller(const msgpack_object *map, dsa_controller *controller);

/* session.c */
/* `controller` may be NULL. NULL, with a message: out of memory. */
struct session *session_new(struct world *world, dsa_world *world_handle, const dsa_session_config *config,
                            const dsa_controller *controller);
void session_free(struct session *session);
int32_t session_enter(dsa_session *handle, struct session **session);
/* ... and wait for a step that went on. On an error the caller is outside. */
int32_t session_enter_settled(dsa_session *handle, struct session **session);
/* Do a job that has time. As `place_do`, without NOT_YET. */
int32_t session_ask(struct session *session, job_build build, const void *with, bool is_move);
/* Ask for nothing: finds the first place. */
int32_t session_ping(struct session *session);
/* Copy the pictures of session->reply, one or those of a tick; frame may be NULL. DSA_E_GONE if they are not there. */
int32_t take_frame(struct session *session, int64_t frame_tick, uint8_t *frame, size_t bytes);

/* prompts.c. Find the prompt in a snapshot, given its header and its arrays, for one of embeddings of all tokens. False:
   there is none. */
bool read_embeddings(const msgpack_object *header, const uint8_t *arrays, size_t bytes, const dsa_spec *spec,
                     struct prompt *prompt);

/* step.c. Wait for the step that went on after its call. */
int32_t settle(struct session *session);

/* snapshots.c. Ask for one, into the journal: now, or so that a later call finds it. */
int32_t checkpoint_now(struct session *session);
void checkpoint_post(struct session *session);

#endif
