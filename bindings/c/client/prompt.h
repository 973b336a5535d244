/* Prompt: the text that a session is conditioned on. Never changed once it is made. */

#ifndef DSA_PROMPT_H
#define DSA_PROMPT_H

#include "message.h"

struct prompt {
    uint32_t index;       /* of dsa_spec.prompts, for one that has a name */
    uint32_t tokens;      /* rows of embeddings; 0: it has a name */
    uint32_t at;          /* in a journal: ticks before it */
    struct prompt *later; /* in a journal */
    float embeddings[];   /* [tokens][dsa_spec.text_width] */
};

/* NULL, with a message: out of memory. */
struct prompt *prompt_new(const dsa_spec *spec, uint32_t index, uint32_t tokens);
struct prompt *prompt_copy(const dsa_spec *spec, const struct prompt *prompt);
/* ... and all that are later. */
void prompt_free(struct prompt *prompt);

/* DSA_OK, or DSA_E_PROMPT and why: a name that is none of the world's, or no embeddings for it. */
int32_t check_name(const dsa_spec *spec, const char *name, uint32_t *index);
int32_t check_embeddings(const dsa_spec *spec, const float *embeddings, uint32_t tokens);

/* The field of a request that bears it. Embeddings go with it as its body. */
void put_prompt(struct request *request, const dsa_spec *spec, const struct prompt *prompt);

#endif
