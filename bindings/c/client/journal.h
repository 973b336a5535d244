/* Journal: what it takes to make a session again elsewhere, bit for bit: a start, and the ticks and prompts since. Its
   memory, but for the prompts, is allocated once. Nothing is kept for sessions that are not to recover, but the prompt
   that they begin with. */

#ifndef DSA_JOURNAL_H
#define DSA_JOURNAL_H

#include <zmq.h>

#include "prompt.h"

struct journal {
    bool is_kept;
    bool is_exact;      /* whether all ticks and their steps are known */
    bool has_snapshot;  /* else it begins with the seed */
    uint64_t seed;
    zmq_msg_t snapshot;
    uint32_t every;     /* ticks after which a new snapshot is due */
    uint32_t count, capacity;
    size_t action_bytes;
    uint8_t *actions;   /* [capacity][action_bytes] */
    uint32_t *steps;    /* [capacity]; 0: not known */
    struct prompt *prompt;  /* where it begins; NULL: the world's first, or that of a world that takes no text */
    struct prompt *prompts; /* that came later, oldest first */
};

/* False: out of memory. */
bool journal_new(struct journal *journal, uint64_t seed, uint32_t every, size_t action_bytes);
void journal_free(struct journal *journal);

void journal_begin(struct journal *journal, uint64_t seed); /* the session was reset */
/* The session as it is now; takes the message over. */
void journal_checkpoint(struct journal *journal, zmq_msg_t *snapshot);
/* A tick has come back. */
void journal_note(struct journal *journal, const void *action, uint32_t steps);
/* The prompt was changed; takes it over. */
void journal_prompt(struct journal *journal, struct prompt *prompt);
/* The snapshot it begins with was another session's, with that prompt; takes it over. */
void journal_begin_with(struct journal *journal, struct prompt *prompt);
/* Something has happened that was not noted. */
void journal_blur(struct journal *journal);
/* Whether it is time for a checkpoint. */
bool journal_is_due(const struct journal *journal);

#endif
