/* dsa_runtime.h: DSA Runtime from C. C99 and C++17.

   One header, two libraries with the same functions:

     libdsa_runtime   runs the world in this process, on an embedded Python
     libdsa_client    runs it at a server (`dsa serve`), over ZeroMQ and shared memory; no Python in this process

   A whole program: one second of the bundled world, and what it took.

     #include <dsa_runtime.h>
     #include <stdio.h>
     #include <stdlib.h>

     static int fail(const char *what)
     {
         fprintf(stderr, "%s: %s\n", what, dsa_last_error());
         return 1;
     }

     int main(void)
     {
         dsa_runtime *runtime = NULL;
         dsa_world *world = NULL;
         dsa_session *session = NULL;
         dsa_spec spec;
         dsa_tick tick;

         dsa_spec_init(&spec, sizeof spec);
         dsa_tick_init(&tick, sizeof tick);
         if (dsa_runtime_open(NULL, &runtime) < 0) return fail("runtime");
         if (dsa_world_open(runtime, NULL, &world) < 0) return fail("world");
         if (dsa_world_spec(world, &spec) < 0) return fail("spec");
         if (dsa_session_open(world, NULL, &session) < 0) return fail("session");
         if (dsa_session_prepare(session) < 0) return fail("prepare");

         uint8_t *frame = malloc(spec.tick_bytes);
         int32_t forward = 1;                                     (the bundled world is Discrete)
         for (int i = 0; i < (int)spec.fps; i++) {
             int32_t status = dsa_session_step(session, &forward, sizeof forward, DSA_BUDGET_PERIOD,
                                               frame, spec.tick_bytes, &tick);
             if (status < 0) return fail("step");
             printf("tick %d: %u steps, confidence %.2f, %.1f ms%s\n", (int)tick.tick, (unsigned)tick.steps,
                    tick.confidence, tick.total_us / 1000.0, status > 0 ? ", late" : "");
         }
         free(frame);
         return dsa_runtime_close(runtime) < 0;                   (closes its worlds and their sessions)
     }

   Statuses    Every call returns an int32_t: 0 done; < 0 an error, nothing was done; > 0 done, but degraded.
               dsa_last_error() has the words; nothing needs to be parsed to decide what to do.
   Handles     dsa_runtime, dsa_world and dsa_session are tokens, not addresses. NULL, a closed one and one of another
               kind are noticed: DSA_E_HANDLE. Closing NULL does nothing and returns 0.
   Structs     go by pointer. Their first field is struct_size; call dsa_X_init(&x, sizeof x) first, then set what
               should differ. They only ever grow at the end, so a program and a library of different age fit
               together: a library refuses (DSA_E_STRUCT) only what it does not know and what was really set.
   Memory      The caller owns frame and snapshot buffers, actions and structs; the library reads or writes them during
               the call only. The library owns handles and strings.
   Threads     A session serves one thread at a time; a second one gets DSA_E_BUSY and nothing happens. Only
               dsa_session_cancel may be called meanwhile. Different sessions may run on different threads. In
               libdsa_runtime their Python parts take turns; the inference, which is nearly all of it, does not.
   Pictures    A tick draws dsa_spec.frames_per_tick pictures: 1 in nearly all worlds, more where a tick is a piece of
               film. A step writes all of them, dsa_spec.tick_bytes; where a session stands (reset, rewind, restore) is
               one picture, dsa_spec.frame_bytes.
   Hot path    After dsa_session_prepare, dsa_session_step allocates nothing on the thread that calls it (inference
               runs on others), opens no file and logs nothing unless something is wrong.
   Process     The library never ends the process and never touches signal handlers, locale, working folder or stdio. It
               sets one environment variable, unless that is set: ORT_DISABLE_TELEMETRY=1, so that ONNX Runtime
               does not report to its maker.
   fork()      after dsa_runtime_open is not supported: in the child every call returns DSA_E_FORKED. fork and exec at
               once (posix_spawn, system) is fine. Open the runtime after forking instead.

   When the deadline passes. The budget counts from call to return (libdsa_client: from the arrival at the server until
   its reply leaves; the way there and back comes on top, see dsa_tick.call_us). The first denoising step always runs. A
   further one is begun if it is likely to fit and abandoned if it turns out not to, so the usual end of a short budget
   is an ordinary frame of fewer steps, in time: status DSA_OK, stopped_by DSA_STOPPED_BUDGET or _DEADLINE. If not even
   the first step is ready in time, the session's on_miss says what happens:

     DSA_ON_MISS_BEST_EFFORT  the call waits for the frame; status DSA_LATE
     DSA_ON_MISS_REPEAT       the call returns in time with the newest finished frame; status DSA_REPEATED (where a
                              tick has several pictures: with the last of them, as often as that). The tick goes on
                              in the background and becomes the next tick's past. If the next call finds it still at
                              work: DSA_SKIPPED, the same frame again, the action was not taken in
     DSA_ON_MISS_ERROR        the call returns in time; DSA_E_DEADLINE, the tick is undone and can be tried again

   This is soft real time: it holds as well as the operating system puts a waiting thread back on a core.

   When the server is away (libdsa_client). With DSA_ON_MISS_REPEAT a call still returns in time, but for twice what the
   way has taken lately: DSA_REPEATED, then DSA_SKIPPED. Other calls wait. After timeout_us of silence, and as soon as a
   server answers that has restarted, it is DSA_E_GONE; with dsa_session_config.recover the session is made again first,
   the same to the bit, and the call goes on. Requests are repeated until they are answered, and happen once.

   Licence: Apache-2.0. */

#ifndef DSA_RUNTIME_H
#define DSA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifndef DSA_API
#if defined(_WIN32)
#define DSA_API __declspec(dllimport)
#elif defined(__GNUC__)
#define DSA_API __attribute__((visibility("default")))
#else
#define DSA_API
#endif
#endif

/* What must be looked at: the compiler warns where it is dropped. */
#ifndef DSA_CHECKED
#if defined(__GNUC__)
#define DSA_CHECKED __attribute__((warn_unused_result))
#else
#define DSA_CHECKED
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ---------------------------------------------------------------------------------------------------- */

/* Of this header. The major number changes when programs have to be changed, the minor one when something is added. */
#define DSA_VERSION_MAJOR 1
#define DSA_VERSION_MINOR 1
#define DSA_VERSION_PATCH 0
#define DSA_VERSION (DSA_VERSION_MAJOR * 1000000 + DSA_VERSION_MINOR * 1000 + DSA_VERSION_PATCH)

/* The header version that the library was built with. Compatible if the major numbers (/ 1000000) are equal and it is
   not smaller than DSA_VERSION; older ones lack functions. Any thread, any time, costs nothing. */
DSA_API uint32_t dsa_version(void);

/* "libdsa_runtime" or "libdsa_client". Static. */
DSA_API const char *dsa_library_name(void);

/* ---- Statuses --------------------------------------------------------------------------------------------------- */

enum {
    DSA_OK = 0,

    /* Done, but degraded. Only dsa_session_step returns these. */
    DSA_LATE = 1,     /* this tick's frame, after its budget */
    DSA_REPEATED = 2, /* the newest finished frame instead of this tick's, which goes on in the background */
    DSA_SKIPPED = 3,  /* the newest finished frame; the tick before is still drawn, this action was not taken in */

    /* Errors. Whatever was called is as if it had not been called, but for DSA_E_GONE. */
    DSA_E_ARGUMENT = -1,     /* a NULL or a number that makes no sense here */
    DSA_E_STRUCT = -2,       /* a struct_size that is none (use the init function), or a field that is unknown here */
    DSA_E_START = -3,        /* the library could not start: Python, its version, the package; a bad address */
    DSA_E_HANDLE = -4,       /* NULL, closed, or of another kind */
    DSA_E_BUFFER = -5,       /* a buffer is too small; the message says how large it must be */
    DSA_E_INTERNAL = -6,     /* a defect; the message has what there is. The session is still usable */
    DSA_E_WORLD = -7,        /* a world is missing, damaged, unsafe or of an unknown version */
    DSA_E_ACTION = -8,       /* the action does not belong to the world's action space */
    DSA_E_BUDGET = -9,       /* a threshold, number of steps or target that is impossible */
    DSA_E_QUALITY = -10,     /* a quality that the world does not promise */
    DSA_E_SESSION = -11,     /* the session's state does not allow it: for example more ticks back than it keeps */
    DSA_E_BUSY = -12,        /* another thread is using it; nothing was done */
    DSA_E_ENGINE = -13,      /* a graph failed while running */
    DSA_E_DEADLINE = -14,    /* with DSA_ON_MISS_ERROR: not ready in time, undone */
    DSA_E_CANCELLED = -15,   /* dsa_session_cancel has stopped this call, undone */
    DSA_E_SNAPSHOT = -16,    /* a snapshot is damaged, of another world or of another version */
    DSA_E_GONE = -17,        /* libdsa_client: the server does not answer, has restarted or has given the session up */
    DSA_E_CAPACITY = -18,    /* libdsa_client: the server has no room now; try again later */
    DSA_E_MEMORY = -19,      /* out of memory or of handles */
    DSA_E_FORKED = -20,      /* this process was forked after dsa_runtime_open */
    DSA_E_UNSUPPORTED = -21, /* this library, or the server, does not offer it */
    DSA_E_PROMPT = -22       /* a prompt that is none of the world's, or no embeddings for it; or it takes no text */
};

/* "DSA_E_WORLD" for DSA_E_WORLD, "unknown status" for what is none. Static; any thread. */
DSA_API const char *dsa_status_name(int32_t status);

/* One line about the last call of this thread that failed; "" if none did. The library's, valid until the next call
   of this thread that fails. Any thread. */
DSA_API const char *dsa_last_error(void);

/* ---- Constants -------------------------------------------------------------------------------------------------- */

/* Budgets, in microseconds. */
#define DSA_BUDGET_PERIOD ((uint64_t)0)        /* one period of the world's native rate */
#define DSA_BUDGET_NONE UINT64_C(0xffffffffffffffff) /* no limit */

/* Of numbers in structs that may be left open: any negative value. */
#define DSA_UNSET (-1.0)

enum { DSA_DISCRETE = 1, DSA_MULTI_BINARY = 2, DSA_BOX = 3 }; /* dsa_spec.action_type */

enum { DSA_POLICY_GAIN = 0, DSA_POLICY_FIXED = 1, DSA_POLICY_PAPER = 2 }; /* dsa_controller.policy */

enum { DSA_ON_MISS_BEST_EFFORT = 0, DSA_ON_MISS_REPEAT = 1, DSA_ON_MISS_ERROR = 2 }; /* dsa_session_config.on_miss */

enum { DSA_FORM_AUTO = 0, DSA_FORM_OP = 1, DSA_FORM_PLAIN = 2, DSA_FORM_HALF = 3 }; /* dsa_world_config.form */

enum { DSA_FRAMES_AUTO = 0, DSA_FRAMES_PART = 1, DSA_FRAMES_SHM = 2 }; /* dsa_runtime_config.frames */

enum { /* dsa_tick.stopped_by: why no further denoising step was run */
    DSA_STOPPED_CONFIDENCE = 1, /* it sufficed */
    DSA_STOPPED_BUDGET = 2,     /* the next step was not likely to fit */
    DSA_STOPPED_CEILING = 3,    /* the last step of the schedule or of max_steps */
    DSA_STOPPED_REQUEST = 4,    /* dsa_session_step_exactly */
    DSA_STOPPED_DEADLINE = 5    /* the deadline came while a step ran, which was abandoned */
};

enum { DSA_LOG_DEBUG = 10, DSA_LOG_INFO = 20, DSA_LOG_WARNING = 30, DSA_LOG_ERROR = 40 };

enum { DSA_MOST_STEP_TIMES = 16 }; /* length of dsa_tick.denoise_us */

/* ---- Handles and structs ---------------------------------------------------------------------------------------- */

typedef struct dsa_runtime dsa_runtime; /* the library, started; libdsa_client: the connection to a server */
typedef struct dsa_world dsa_world;     /* a loaded world, shared by its sessions */
typedef struct dsa_session dsa_session; /* one running instance of a world */

/* Called with a line of text, its level and the pointer given with it; from any thread, one at a time. The text is
   the library's, valid during the call. Must not call the library, and should be quick. */
typedef void (*dsa_log_function)(void *user, int32_t level, const char *message);

/* How to start. Strings may be freed after dsa_runtime_open. */
typedef struct dsa_runtime_config {
    uint32_t struct_size;
    int32_t log_level;    /* least level that is told; DSA_LOG_WARNING */
    dsa_log_function log; /* NULL: nothing is logged anywhere */
    void *log_user;

    /* libdsa_runtime; ignored by the other one */
    const char *python; /* the environment that holds the package dsa_runtime: its bin/python. NULL: $DSA_PYTHON, else
                           that of an activated environment ($VIRTUAL_ENV), else the one that built the library. Its
                           minor version must be that of the library. A process that has Python running keeps that */

    /* libdsa_client; ignored by the other one */
    const char *server;     /* tcp://HOST:PORT or ipc://PATH. NULL: $DSA_SERVER */
    const char *key;        /* for a server with CURVE: path of this client's secret key. NULL: $DSA_KEY, else none */
    const char *server_key; /* ... and the server's public key, as text or path. NULL: $DSA_SERVER_KEY, else none */
    uint64_t timeout_us;    /* after so long a silence the server is gone; 10 s */
    int32_t frames;         /* DSA_FRAMES_AUTO: shared memory on the same machine, else parts of messages */
    int32_t reserved;
} dsa_runtime_config;

/* Which world, and how. Strings may be freed after dsa_world_open. */
typedef struct dsa_world_config {
    uint32_t struct_size;
    int32_t form;         /* DSA_FORM_AUTO: compiled operators where there are any. libdsa_client: ignored */
    const char *world;    /* folder, .dsaworld archive or name of a bundled one; libdsa_client: name of one of the
                             server's. NULL: the default one */
    double quality_alpha; /* at most this share of frames, in (0, 1), further than quality_delta from the full
                             schedule's; sets the default threshold. DSA_UNSET: no promise. libdsa_client:
                             DSA_E_UNSUPPORTED, the server's worlds are loaded already */
    double quality_delta; /* in the unit of the world's calibration; DSA_UNSET: the world's own */
    uint32_t threads;     /* threads per graph; 0: one per core. libdsa_client: ignored */
    uint32_t reserved;
} dsa_world_config;

/* How steps are allocated. */
typedef struct dsa_controller {
    uint32_t struct_size;
    int32_t policy;        /* DSA_POLICY_GAIN: stop at the threshold; _FIXED: always max_steps; _PAPER: as the paper */
    double threshold;      /* confidence in [0, 1] that is good enough; DSA_UNSET: the world's default */
    double target_steps;   /* soft target: mean steps per tick; DSA_UNSET: none */
    double target_load;    /* soft target: mean share (0, 1] of the budget that is used; DSA_UNSET: none */
    uint32_t min_steps;    /* 1 */
    uint32_t max_steps;    /* 0: the schedule's length */
    uint32_t settle_ticks; /* time constant of a soft target; 32 */
    int32_t rescue;        /* whether a further step that runs at the deadline is abandoned; 1 */
    double credit_us;      /* most that a tick may overrun out of earlier ticks' savings; 0 */
    double guard_us;       /* kept free before the deadline; 1500 */
    double quantile;       /* of measured costs, for what cannot be taken back; 0.96 */
    double step_quantile;  /* ... for a further step; 0.5 */
} dsa_controller;

/* How to run. What it points to may be freed after dsa_session_open. */
typedef struct dsa_session_config {
    uint32_t struct_size;
    int32_t on_miss;                  /* DSA_ON_MISS_BEST_EFFORT */
    uint64_t seed;                    /* starts from context seed % contexts, and keys the noise; 0 */
    const dsa_controller *controller; /* NULL: the defaults */
    uint32_t history;                 /* ticks that dsa_session_rewind can undo; 0 */
    uint32_t threads;                 /* threads per graph; 0: the world's. libdsa_client: ignored */

    /* libdsa_client; ignored by the other one */
    int32_t recover;           /* 1: if the server restarts, make the session again as it was and go on; 0 */
    uint32_t checkpoint_ticks; /* with recover: ticks between the snapshots that are kept for it; 0: ten seconds' */
    uint32_t lease_ms;         /* how long the session outlives this process at the server; 0: the server's default */
    uint32_t reserved;

    /* since 1.1 */
    const char *prompt; /* the text to begin with: one of dsa_spec.prompts, UTF-8. NULL: the first of them */
} dsa_session_config;

/* What a world is. Pointers are the library's, valid until the world is closed. */
typedef struct dsa_spec {
    uint32_t struct_size;
    uint32_t height, width, channels; /* a picture is uint8_t[height][width][channels], RGB, top row first */
    size_t frame_bytes;               /* of one picture: height * width * channels */
    double fps;                       /* native rate: pictures a second */
    uint64_t period_us;               /* of a tick: 1e6 * frames_per_tick / fps; DSA_BUDGET_PERIOD */
    uint32_t aspect_width;            /* how it is meant to be shown: aspect_width : aspect_height */
    uint32_t aspect_height;
    int32_t action_type;              /* an action is int32_t (DSA_DISCRETE), uint8_t[action_count] of 0 and 1
                                         (DSA_MULTI_BINARY) or float[action_count] (DSA_BOX) */
    uint32_t action_count;            /* choices of a DSA_DISCRETE, otherwise values in an action */
    size_t action_bytes;              /* size of an action */
    uint32_t schedule_steps;          /* denoising steps of the full schedule */
    uint32_t contexts;                /* start contexts */
    double default_threshold;         /* of confidence */
    double delta;                     /* what confidence is about: see tick.confidence; in delta_unit */
    const char *delta_unit;
    const char *name, *version, *licence, *description;
    const char *fingerprint;          /* worlds with the same one draw the same frames */
    const char *const *action_names;  /* [action_count] */
    const char *const *action_units;  /* [action_count]; NULL unless DSA_BOX */
    const float *action_low, *action_high; /* [action_count]; NULL unless DSA_BOX */
    const double *schedule_levels;    /* [schedule_steps], noise levels, falling from 1 */

    /* since 1.1; an older library leaves 0 */
    uint32_t frames_per_tick;         /* pictures that a tick draws; 1 in nearly all worlds */
    uint32_t text_width;              /* of an embedding of a prompt; 0: the world takes no text */
    uint32_t text_tokens;             /* most embeddings of a prompt */
    uint32_t prompt_count;            /* texts whose embeddings come with the world; 0 if it takes none */
    size_t tick_bytes;                /* what a step writes: frames_per_tick * frame_bytes, as
                                         uint8_t[frames_per_tick][height][width][channels], oldest picture first */
    const char *const *prompts;       /* [prompt_count], UTF-8; NULL if there are none */
} dsa_spec;

/* What became of a tick. Times in microseconds. */
typedef struct dsa_tick {
    uint32_t struct_size;
    int32_t status;       /* as returned: DSA_OK, DSA_LATE, DSA_REPEATED or DSA_SKIPPED */
    uint64_t tick;        /* index since reset, from 0 */
    int64_t frame_tick;   /* whose frame it is; -1: the picture the session started from */
    uint32_t steps;       /* denoising steps taken; 0 while not known (repeated, skipped) */
    int32_t stopped_by;   /* DSA_STOPPED_... */
    double confidence;    /* calibrated probability that the frame is within delta of the full schedule's */
    double threshold;     /* at which it would stop; DSA_UNSET where the policy has none */
    uint64_t budget_us;   /* as counted: the period for DSA_BUDGET_PERIOD; DSA_BUDGET_NONE */
    double credit_us;     /* allowed on top, from the savings of earlier ticks */
    double slack_us;      /* left of budget and credit; negative when late; 0 without a limit */

    /* Where the time went. wait to sdk add up to total_us. */
    double wait_us;       /* until the previous frame was committed and the worker free */
    double denoise_sum_us;
    double abandoned_us;  /* on a step that the deadline cut short */
    double decode_us;
    double sdk_us;        /* everything else in the SDK */
    double total_us;      /* in the SDK, from call to return */
    double queue_us;      /* libdsa_client: the part of wait_us at the server, before the tick; 0 */
    double call_us;       /* of the function in C, from call to return; libdsa_client: with the way there and back */
    double denoise_us[DSA_MOST_STEP_TIMES]; /* per step, the first 16; 0 for those that were not taken */
} dsa_tick;

/* Where a session is. */
typedef struct dsa_session_state {
    uint32_t struct_size;
    int32_t on_miss;
    uint64_t tick; /* index of the next tick */
    uint64_t seed; /* of the last reset */
} dsa_session_state;

/* Set every field of a struct of `struct_size` bytes (sizeof it) to its default, or to 0 where the library fills it in.
   DSA_E_STRUCT for a size that no version of the struct has had; then nothing is written. Any thread, no cost. */
DSA_API int32_t dsa_runtime_config_init(dsa_runtime_config *config, size_t struct_size);
DSA_API int32_t dsa_world_config_init(dsa_world_config *config, size_t struct_size);
DSA_API int32_t dsa_session_config_init(dsa_session_config *config, size_t struct_size);
DSA_API int32_t dsa_controller_init(dsa_controller *controller, size_t struct_size);
DSA_API int32_t dsa_spec_init(dsa_spec *spec, size_t struct_size);
DSA_API int32_t dsa_tick_init(dsa_tick *tick, size_t struct_size);
DSA_API int32_t dsa_session_state_init(dsa_session_state *state, size_t struct_size);

/* ---- Runtime ---------------------------------------------------------------------------------------------------- */

/* Start the library. config may be NULL: the defaults. On success *runtime is the caller's, to be closed; on an error
   it is NULL.

   libdsa_runtime starts Python and imports numpy and ONNX Runtime: some tenths of a second, DSA_E_START if that fails.
   Python belongs to the process: it is started once, stays until the process ends, and further runtimes share it (one
   with another `python` is refused). libdsa_client connects and says hello: milliseconds; DSA_E_GONE if nobody answers.
   Any thread. */
DSA_API DSA_CHECKED int32_t dsa_runtime_open(const dsa_runtime_config *config, dsa_runtime **runtime);

/* Close its worlds and their sessions, end the worker threads. Waits for calls of other threads on any of them to
   return (see dsa_session_cancel); new ones get DSA_E_HANDLE. Also to be called before the process ends, because threads
   that compute do not like to be interrupted by exit(). NULL: nothing, 0. Any thread. */
DSA_API int32_t dsa_runtime_close(dsa_runtime *runtime);

/* ---- World ------------------------------------------------------------------------------------------------------ */

/* Load and verify a world. config may be NULL: the defaults. On success *world is the caller's, to be closed (or left
   to dsa_runtime_close); on an error it is NULL. libdsa_runtime: reads and hashes the files, a second or so;
   libdsa_client: one round trip. Any thread. */
DSA_API DSA_CHECKED int32_t dsa_world_open(dsa_runtime *runtime, const dsa_world_config *config, dsa_world **world);

/* Close its sessions, and the world. Waits for calls of other threads on any of them to return (see
   dsa_session_cancel); new ones get DSA_E_HANDLE. NULL: nothing, 0. Any thread. */
DSA_API int32_t dsa_world_close(dsa_world *world);

/* What it is: sizes of pictures and actions, rate, schedule, prompts. Any thread, no cost. */
DSA_API DSA_CHECKED int32_t dsa_world_spec(dsa_world *world, dsa_spec *spec);

/* ---- Session ---------------------------------------------------------------------------------------------------- */

/* Start a session. config may be NULL: the defaults. On success *session is the caller's, to be closed (or left to
   dsa_world_close); on an error it is NULL. Draws the context's frames into the cache and warms up: some dozens of
   ticks' time. Any thread; sessions of one world may be opened at the same time. */
DSA_API DSA_CHECKED int32_t dsa_session_open(dsa_world *world, const dsa_session_config *config, dsa_session **session);

/* Give back what it holds. Waits for a call of another thread to return (dsa_session_cancel, before this or meanwhile,
   makes that soon) and for the commit under way: milliseconds. New calls get DSA_E_HANDLE. NULL: nothing, 0. Any
   thread. */
DSA_API int32_t dsa_session_close(dsa_session *session);

/* Do beforehand what the first steps would do: allocate, load, warm up; on the thread that will step, as some of it
   is per thread. The session does not move. Costs a tick or two. Optional; after it the promises of the hot path
   hold. */
DSA_API DSA_CHECKED int32_t dsa_session_prepare(dsa_session *session);

/* Advance the world by one tick.

     action, action_bytes  as dsa_spec.action_type says; action_bytes must be dsa_spec.action_bytes
     budget_us             from call to return: DSA_BUDGET_PERIOD, DSA_BUDGET_NONE or microseconds
     frame, frame_bytes    where the tick's pictures go, at least dsa_spec.tick_bytes (else DSA_E_BUFFER, and nothing
                           moves): that many are written if the status is not negative, oldest picture first. NULL
                           and 0: they are not wanted
     tick                  what it came to; may be NULL. Written if the status is not negative

   DSA_OK, DSA_LATE, DSA_REPEATED, DSA_SKIPPED; DSA_E_ACTION, DSA_E_DEADLINE, DSA_E_CANCELLED, DSA_E_ENGINE,
   DSA_E_GONE, ... An error leaves the session as it was (DSA_E_GONE: lost, unless opened with recover). One thread at a
   time per session. Costs the inference, and tens of microseconds. */
DSA_API DSA_CHECKED int32_t dsa_session_step(dsa_session *session, const void *action, size_t action_bytes,
                                             uint64_t budget_us, uint8_t *frame, size_t frame_bytes, dsa_tick *tick);

/* As dsa_session_step, with exactly `steps` denoising steps (1 to dsa_spec.schedule_steps), whatever the confidence
   and the budget, which only decides between DSA_OK and DSA_LATE: for replay and comparison. */
DSA_API DSA_CHECKED int32_t dsa_session_step_exactly(dsa_session *session, const void *action, size_t action_bytes,
                                                     uint32_t steps, uint64_t budget_us, uint8_t *frame,
                                                     size_t frame_bytes, dsa_tick *tick);

/* Let the step that another thread is in return DSA_E_CANCELLED at once (at the end of a graph's node: tenths of a
   millisecond). *cancelled, if not NULL, is 1; or 0 if there was none, or its frame was finished already. Any thread,
   at any time until the session is closed: also while dsa_session_close, or a close above it, waits for that step.
   Without a step to wait for, a session that is being closed is closed: DSA_E_HANDLE. */
DSA_API int32_t dsa_session_cancel(dsa_session *session, int32_t *cancelled);

/* The following ones wait for the commit under way, and cost milliseconds. One thread at a time per session. Where
   they take a frame, it is for the one picture that the session is at then: at least dsa_spec.frame_bytes, or NULL and
   0. */

/* Start over from context seed % contexts. The prompt stays. */
DSA_API DSA_CHECKED int32_t dsa_session_reset(dsa_session *session, uint64_t seed, uint8_t *frame, size_t frame_bytes);

/* Undo the newest `ticks` ticks, at most dsa_session_config.history; DSA_E_SESSION for more. 0: only the picture. */
DSA_API DSA_CHECKED int32_t dsa_session_rewind(dsa_session *session, uint32_t ticks, uint8_t *frame,
                                               size_t frame_bytes);

/* Everything that decides the session's future, as portable bytes: for any session of the same world, in either
   library, in Python and at a server. *bytes is how many were written. With buffer NULL and capacity 0: how many
   suffice for any snapshot of this session; in a world that begins with less than it looks back at, those of the first
   ticks are smaller: ask anew. Too small: DSA_E_BUFFER, *bytes is what it needs. `bytes` must not be NULL. */
DSA_API DSA_CHECKED int32_t dsa_session_snapshot(dsa_session *session, uint8_t *buffer, size_t capacity,
                                                 size_t *bytes);

/* Go on from a snapshot of the same world; DSA_E_SNAPSHOT if it is none. The controller and the prompt come with it;
   the history of dsa_session_rewind starts anew. */
DSA_API DSA_CHECKED int32_t dsa_session_restore(dsa_session *session, const uint8_t *snapshot, size_t bytes,
                                                uint8_t *frame, size_t frame_bytes);

/* `count` (1 to 65536; libdsa_client: 1024) sessions that go on from here, each on its own: written to
   forks[0..count-1], the caller's, to be closed. Copies no keys and values. On an error none was made, and all are
   NULL. */
DSA_API DSA_CHECKED int32_t dsa_session_fork(dsa_session *session, uint32_t count, dsa_session **forks);

/* Replace how steps are allocated, from the next tick on; and how they are now. */
DSA_API DSA_CHECKED int32_t dsa_session_configure(dsa_session *session, const dsa_controller *controller);
DSA_API DSA_CHECKED int32_t dsa_session_controller(dsa_session *session, dsa_controller *controller);

/* Since 1.1. Condition the coming ticks on another text, in worlds that take one (dsa_spec.text_width):

     name                one of dsa_spec.prompts, UTF-8
     embeddings, tokens  float[tokens][dsa_spec.text_width], finite, of 1 to dsa_spec.text_tokens tokens; made
                         elsewhere, as neither library has a text encoder. Read during the call

   What the world remembers depends on the text it was made with, so the ticks that the session looks back at are drawn
   into the cache again: this takes as long as so many commits, and the history of dsa_session_rewind starts anew.
   DSA_E_PROMPT if it is no such text, or the world takes none; an error leaves the session as it was. */
DSA_API DSA_CHECKED int32_t dsa_session_set_prompt(dsa_session *session, const char *name);
DSA_API DSA_CHECKED int32_t dsa_session_set_text(dsa_session *session, const float *embeddings, uint32_t tokens);

/* Where the session is. Does not wait. */
DSA_API DSA_CHECKED int32_t dsa_session_where(dsa_session *session, dsa_session_state *state);

#ifdef __cplusplus
}
#endif

#endif
