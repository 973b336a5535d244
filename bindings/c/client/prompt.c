/* Prompts: checked here, as a session of this process would, and written into messages. */

#include "prompt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct prompt *prompt_new(const dsa_spec *spec, uint32_t index, uint32_t tokens)
{
    struct prompt *prompt = calloc(1, sizeof *prompt + (size_t)tokens * spec->text_width * sizeof(float));
    if (prompt == NULL) {
        dsa_fail(DSA_E_MEMORY, "out of memory");
        return NULL;
    }
    prompt->index = index;
    prompt->tokens = tokens;
    return prompt;
}

struct prompt *prompt_copy(const dsa_spec *spec, const struct prompt *prompt)
{
    struct prompt *copy = prompt_new(spec, prompt->index, prompt->tokens);
    if (copy != NULL) {
        memcpy(copy->embeddings, prompt->embeddings, (size_t)prompt->tokens * spec->text_width * sizeof(float));
    }
    return copy;
}

void prompt_free(struct prompt *prompt)
{
    while (prompt != NULL) {
        struct prompt *later = prompt->later;
        free(prompt);
        prompt = later;
    }
}

static int32_t takes_none(const dsa_spec *spec)
{
    return dsa_fail(DSA_E_PROMPT, "prompt: the world '%.80s' takes no text; leave it out", spec->name);
}

int32_t check_name(const dsa_spec *spec, const char *name, uint32_t *index)
{
    if (!spec->text_width) {
        return takes_none(spec);
    }
    for (*index = 0; *index < spec->prompt_count; ++*index) {
        if (!strcmp(spec->prompts[*index], name)) {
            return DSA_OK;
        }
    }
    return dsa_fail(DSA_E_PROMPT, "prompt: expected one of dsa_spec.prompts ('%.200s', ...), or embeddings; got '%.200s'",
                    spec->prompts[0], name);
}

int32_t check_embeddings(const dsa_spec *spec, const float *embeddings, uint32_t tokens)
{
    if (!spec->text_width) {
        return takes_none(spec);
    }
    if (tokens < 1 || tokens > spec->text_tokens) {
        return dsa_fail(DSA_E_PROMPT, "prompt: expected embeddings [at most %u, %u], got tokens = %u",
                        (unsigned)spec->text_tokens, (unsigned)spec->text_width, (unsigned)tokens);
    }
    for (size_t i = 0; i < (size_t)tokens * spec->text_width; i++) {
        if (!isfinite(embeddings[i])) {
            return dsa_fail(DSA_E_PROMPT, "prompt: the embeddings must be finite");
        }
    }
    return DSA_OK;
}

void put_prompt(struct request *request, const dsa_spec *spec, const struct prompt *prompt)
{
    if (prompt->tokens) {
        const uint64_t shape[] = {prompt->tokens, spec->text_width};
        put_buffer(request, "prompt", "f4", shape, 2, prompt->embeddings, shape[0] * shape[1] * sizeof(float));
    } else {
        put_name(request, "prompt");
        put_text(request, spec->prompts[prompt->index]);
    }
}
