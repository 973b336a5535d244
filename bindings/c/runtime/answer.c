/* What the Python half answers, as a status. */

#include "host.h"

_Static_assert((int)DSA_PY_MESSAGE_BYTES == (int)DSA_MESSAGE_BYTES, "both halves have the same idea of a message");

int32_t dsa_unanswered(void)
{
    return dsa_fail(DSA_E_INTERNAL, "Python did not answer; is the installed package dsa_runtime damaged?");
}

int32_t dsa_status_of(int32_t answer, const char *message)
{
    int32_t status = answer - DSA_PY_ANSWER;
    if (answer < DSA_PY_ANSWER - DSA_PY_MOST_STATUS || answer > DSA_PY_ANSWER + DSA_PY_MOST_STATUS) {
        return dsa_unanswered();
    }
    return status < 0 ? dsa_fail(status, "%.*s", DSA_MESSAGE_BYTES - 1, message) : status;
}

int32_t dsa_needs(const char *function, const char *name)
{
    return dsa_fail(DSA_E_ARGUMENT, "%s: %s must not be NULL", function, name);
}
