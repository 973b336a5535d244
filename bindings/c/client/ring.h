/* Ring: a session's frames in shared memory, read only. The layout is in dsa_runtime/serving/PROTOCOL.md. */

#ifndef DSA_RING_H
#define DSA_RING_H

#include "../common/dsa_common.h"

struct ring {
    const uint8_t *start; /* NULL: none */
    size_t bytes;
    uint64_t stride;
    uint32_t slots;
};

/* Map it instead of the one before. False if it is not on this machine, or another one. */
bool ring_attach(struct ring *ring, const char *path, uint64_t token, size_t frame_bytes);
void ring_detach(struct ring *ring);

/* Copy a frame out. False if the ring does not hold it (any more). frame may be NULL. */
bool ring_read(const struct ring *ring, uint64_t slot, uint64_t seq, uint8_t *frame, size_t frame_bytes);

#endif
