/* What the files of libdsa_runtime's C half know of each other. */

#ifndef DSA_HOST_H
#define DSA_HOST_H

#include "../common/dsa_common.h"

/* Start Python from the environment `python` (NULL: look for it), or join the one that runs, and load the Python half.
   Idempotent. DSA_OK or DSA_E_START. */
int32_t dsa_python_start(const char *python);

#include "python_calls.h"

/* Load the Python half; 0, or -1 and something printed. In the part that cffi writes. */
int32_t dsa_glue_start(void);

/* Python calls these. 1: Python was started by this library; 0: it was there. */
int32_t dsa_host_owns_python(void);
void dsa_host_log(int32_t level, const char *message);

#endif
