/* Ring: mapping, and copies that count only if nobody wrote meanwhile. */

#define _POSIX_C_SOURCE 200809L

#include "ring.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 64 }; /* of the ring's header, of a slot's header, and what slots are aligned to */

static const char HEAD[12] = "DSARING\n\1\0\0";

bool ring_attach(struct ring *ring, const char *path, uint64_t token, size_t frame_bytes)
{
    ring_detach(ring);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return false;
    }
    struct stat found;
    void *start = MAP_FAILED;
    if (!fstat(file, &found) && found.st_size > BLOCK) {
        start = mmap(NULL, (size_t)found.st_size, PROT_READ, MAP_SHARED, file, 0);
    }
    close(file);
    if (start == MAP_FAILED) {
        return false;
    }
    uint64_t its_token, capacity;
    *ring = (struct ring){.start = start, .bytes = (size_t)found.st_size};
    memcpy(&ring->slots, ring->start + 12, 4);
    memcpy(&its_token, ring->start + 16, 8);
    memcpy(&ring->stride, ring->start + 24, 8);
    memcpy(&capacity, ring->start + 32, 8);
    bool good = !memcmp(ring->start, HEAD, sizeof HEAD) && its_token == token && capacity >= frame_bytes &&
                ring->stride % BLOCK == 0 && capacity <= ring->bytes && ring->stride >= capacity + BLOCK &&
                ring->slots >= 2 && ring->stride <= (ring->bytes - BLOCK) / ring->slots;
    if (!good) {
        ring_detach(ring);
    }
    return good;
}

void ring_detach(struct ring *ring)
{
    if (ring->start != NULL) {
        munmap((void *)(uintptr_t)ring->start, ring->bytes);
    }
    *ring = (struct ring){0};
}

bool ring_read(const struct ring *ring, uint64_t slot, uint64_t seq, uint8_t *frame, size_t frame_bytes)
{
    if (ring->start == NULL || slot >= ring->slots || seq == 0) {
        return false;
    }
    const uint8_t *place = ring->start + BLOCK + slot * ring->stride;
    const _Atomic uint64_t *number = (const _Atomic uint64_t *)(const void *)place;
    uint64_t bytes;
    memcpy(&bytes, place + 8, 8);
    if (atomic_load_explicit(number, memory_order_acquire) != seq || bytes != frame_bytes) {
        return false;
    }
    if (frame != NULL) {
        memcpy(frame, place + BLOCK, frame_bytes);
    }
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(number, memory_order_relaxed) == seq;
}
