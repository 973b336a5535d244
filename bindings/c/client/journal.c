/* Journal: bookkeeping. */

#include "journal.h"

#include <stdlib.h>
#include <string.h>

enum { MARGIN = 16 }; /* ticks that go on while a checkpoint is under way or has failed */

bool journal_new(struct journal *journal, uint64_t seed, uint32_t every, size_t action_bytes)
{
    *journal = (struct journal){.is_kept = every > 0, .is_exact = true, .seed = seed, .every = every};
    zmq_msg_init(&journal->snapshot);
    if (!journal->is_kept) {
        return true;
    }
    journal->action_bytes = action_bytes;
    journal->capacity = every + MARGIN;
    journal->actions = calloc(journal->capacity, action_bytes);
    journal->steps = calloc(journal->capacity, sizeof *journal->steps);
    if (journal->actions == NULL || journal->steps == NULL) {
        journal_free(journal);
        return false;
    }
    return true;
}

void journal_free(struct journal *journal)
{
    zmq_msg_close(&journal->snapshot);
    free(journal->actions);
    free(journal->steps);
    prompt_free(journal->prompt);
    prompt_free(journal->prompts);
}

/* It begins where it has come to: with the newest prompt. */
static void forget(struct journal *journal)
{
    journal->count = 0;
    while (journal->prompts != NULL) {
        struct prompt *next = journal->prompts;
        journal->prompts = next->later;
        next->later = NULL;
        journal_begin_with(journal, next);
    }
}

void journal_begin_with(struct journal *journal, struct prompt *prompt)
{
    prompt_free(journal->prompt);
    journal->prompt = prompt;
}

void journal_prompt(struct journal *journal, struct prompt *prompt)
{
    struct prompt **end = &journal->prompts;
    while (*end != NULL) {
        end = &(*end)->later;
    }
    *end = prompt;
    prompt->at = journal->count;
}

void journal_begin(struct journal *journal, uint64_t seed)
{
    journal->is_exact = true;
    journal->has_snapshot = false;
    journal->seed = seed;
    forget(journal);
}

void journal_checkpoint(struct journal *journal, zmq_msg_t *snapshot)
{
    zmq_msg_move(&journal->snapshot, snapshot);
    journal->is_exact = journal->has_snapshot = true;
    forget(journal);
}

void journal_note(struct journal *journal, const void *action, uint32_t steps)
{
    if (!journal->is_kept) {
        return;
    }
    if (journal->count == journal->capacity) {
        journal->is_exact = false;
        return;
    }
    memcpy(journal->actions + journal->count * journal->action_bytes, action, journal->action_bytes);
    journal->steps[journal->count++] = steps;
    journal->is_exact = journal->is_exact && steps > 0;
}

void journal_blur(struct journal *journal) { journal->is_exact = false; }

bool journal_is_due(const struct journal *journal)
{
    bool has_ended = journal->count == 0 || journal->steps[journal->count - 1] > 0;
    return journal->is_kept && (journal->count >= journal->every || (!journal->is_exact && has_ended));
}
