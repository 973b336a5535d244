/* Handles: who may come in, and who closes what. */

#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "dsa_common.h"

enum {
    BLOCK_BITS = 8,
    BLOCK = 1 << BLOCK_BITS,
    BLOCKS = 1 << 12,
    INDEX_BITS = 20, /* = BLOCK_BITS + bits of BLOCKS */
};

/* The word that decides: generation << 32 | CLOSING | users beside (15 bits) << 16 | users (16 bits). It changes in
   one piece, so nobody comes into a generation that has just ended. */
#define CLOSING UINT64_C(0x80000000)
#define BESIDE UINT64_C(0x00010000)
#define INSIDE UINT64_C(0x00000001)
#define ANYBODY UINT64_C(0x7fffffff)

struct entry {
    _Atomic uint64_t word;
    _Atomic uint32_t kind; /* 0: free */
    uint32_t index;
    void *data;
    /* Under the lock: */
    struct entry *parent, *next_free, *children, *sibling;
};

static _Atomic(struct entry *) blocks[BLOCKS];
static struct entry *free_entries, *roots;
static uint32_t used_blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static _Atomic bool forked;

static const char *const KINDS[] = {"", "runtime", "world", "session"};

static void in_child(void) { atomic_store(&forked, true); }

static void register_fork(void) { pthread_atfork(NULL, NULL, in_child); }

void dsa_notice_forks(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork);
}

bool dsa_is_forked(void) { return atomic_load_explicit(&forked, memory_order_relaxed); }

static uint64_t generation_of(uint64_t word) { return word >> 32; }

/* Never 0: generations begin with 1. */
static void *handle_of(const struct entry *entry, uint64_t generation)
{
    return (void *)(uintptr_t)(generation << INDEX_BITS | entry->index);
}

static struct entry *entry_at(uintptr_t handle)
{
    uint32_t index = (uint32_t)(handle & ((UINT32_C(1) << INDEX_BITS) - 1));
    struct entry *block = atomic_load_explicit(&blocks[index >> BLOCK_BITS], memory_order_acquire);
    return block == NULL ? NULL : &block[index & (BLOCK - 1)];
}

static int32_t no_such(enum dsa_kind kind, void *handle)
{
    if (handle == NULL) {
        return dsa_fail(DSA_E_HANDLE, "%s: NULL", KINDS[kind]);
    }
    return dsa_fail(DSA_E_HANDLE, "the %s is closed, or is none", KINDS[kind]);
}

enum terms { TOGETHER, ALONE, TO_STOP };

static int32_t enter(void *handle, enum dsa_kind kind, uint64_t as, enum terms terms, void **data)
{
    if (dsa_is_forked()) {
        return dsa_fail(DSA_E_FORKED, "this process was forked after dsa_runtime_open; open it after forking instead");
    }
    struct entry *entry = handle == NULL ? NULL : entry_at((uintptr_t)handle);
    if (entry == NULL || atomic_load(&entry->kind) != kind) {
        return no_such(kind, handle);
    }
    uint64_t generation = (uintptr_t)handle >> INDEX_BITS;
    uint64_t word = atomic_load(&entry->word);
    do {
        bool is_used = word & (BESIDE - 1);
        /* Somebody who is in keeps what is being closed alive. */
        bool is_over = (word & CLOSING) && !(terms == TO_STOP && is_used);
        if (generation_of(word) != generation || is_over) {
            return no_such(kind, handle);
        }
        if (terms == ALONE && is_used) {
            return dsa_fail(DSA_E_BUSY, "the %s is in use by another thread", KINDS[kind]);
        }
    } while (!atomic_compare_exchange_weak(&entry->word, &word, word + as));
    *data = entry->data;
    return DSA_OK;
}

static void leave(void *handle, uint64_t as)
{
    struct entry *entry = entry_at((uintptr_t)handle);
    uint64_t before = atomic_fetch_sub(&entry->word, as);
    if (before & CLOSING) {
        pthread_mutex_lock(&lock);
        pthread_cond_broadcast(&left);
        pthread_mutex_unlock(&lock);
    }
}

int32_t dsa_enter(void *handle, enum dsa_kind kind, void **data)
{
    return enter(handle, kind, INSIDE, kind == DSA_KIND_SESSION ? ALONE : TOGETHER, data);
}

void dsa_leave(void *handle) { leave(handle, INSIDE); }

int32_t dsa_enter_beside(void *handle, enum dsa_kind kind, void **data)
{
    return enter(handle, kind, BESIDE, TOGETHER, data);
}

int32_t dsa_enter_to_stop(void *handle, enum dsa_kind kind, void **data)
{
    return enter(handle, kind, BESIDE, TO_STOP, data);
}

void dsa_leave_beside(void *handle) { leave(handle, BESIDE); }

/* Under the lock. */
static bool grow(void)
{
    struct entry *block = used_blocks < BLOCKS ? calloc(BLOCK, sizeof *block) : NULL;
    if (block == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < BLOCK; i++) {
        block[i].index = used_blocks << BLOCK_BITS | i;
        block[i].word = UINT64_C(1) << 32;
        block[i].next_free = i + 1 < BLOCK ? &block[i + 1] : free_entries;
    }
    free_entries = block;
    atomic_store_explicit(&blocks[used_blocks++], block, memory_order_release);
    return true;
}

void *dsa_handle_new(enum dsa_kind kind, void *parent, void *data)
{
    pthread_mutex_lock(&lock);
    if (free_entries == NULL && !grow()) {
        pthread_mutex_unlock(&lock);
        dsa_fail(DSA_E_MEMORY, "no room for one more %s", KINDS[kind]);
        return NULL;
    }
    struct entry *entry = free_entries;
    free_entries = entry->next_free;
    entry->data = data;
    entry->children = NULL;
    entry->parent = parent == NULL ? NULL : entry_at((uintptr_t)parent);
    struct entry **list = entry->parent == NULL ? &roots : &entry->parent->children;
    entry->sibling = *list;
    *list = entry;
    uint64_t generation = generation_of(atomic_load(&entry->word));
    atomic_store(&entry->kind, kind);
    pthread_mutex_unlock(&lock);
    return handle_of(entry, generation);
}

/* Under the lock: nobody comes in any more. False if the entry was being closed already. */
static bool shut(struct entry *entry)
{
    bool first = !(atomic_fetch_or(&entry->word, CLOSING) & CLOSING);
    for (struct entry *child = entry->children; child != NULL; child = child->sibling) {
        shut(child);
    }
    return first;
}

/* Under the lock, which is given up while waiting and while things end. Several threads may be at it: the one that sets
   the kind to 0 does it, the others wait until the generation is over. */
static void end_all(struct entry *entry, uint64_t generation, dsa_end end)
{
    for (;;) {
        uint64_t word = atomic_fetch_or(&entry->word, CLOSING); /* a child may have been made after `shut` */
        if (generation_of(word) != generation) {
            atomic_fetch_and(&entry->word, ~CLOSING);
            return;
        }
        if ((word & ANYBODY) || atomic_load(&entry->kind) == 0) {
            pthread_cond_wait(&left, &lock);
        } else if (entry->children != NULL) {
            end_all(entry->children, generation_of(atomic_load(&entry->children->word)), end);
        } else {
            break;
        }
    }
    enum dsa_kind kind = (enum dsa_kind)atomic_load(&entry->kind);
    void *data = entry->data;
    atomic_store(&entry->kind, 0);
    pthread_mutex_unlock(&lock);
    end(kind, data);
    pthread_mutex_lock(&lock);
    struct entry **link = entry->parent == NULL ? &roots : &entry->parent->children;
    while (*link != entry) {
        link = &(*link)->sibling;
    }
    *link = entry->sibling;
    entry->next_free = free_entries;
    free_entries = entry;
    atomic_store(&entry->word, (generation + 1) << 32);
    pthread_cond_broadcast(&left);
}

int32_t dsa_handle_close(void *handle, enum dsa_kind kind, dsa_end end)
{
    if (handle == NULL) {
        return DSA_OK;
    }
    void *data;
    int32_t status = dsa_enter_beside(handle, kind, &data); /* only to see whether it is open */
    if (status < 0) {
        return status;
    }
    struct entry *entry = entry_at((uintptr_t)handle);
    pthread_mutex_lock(&lock);
    bool first = shut(entry);
    atomic_fetch_sub(&entry->word, BESIDE);
    pthread_cond_broadcast(&left); /* of whom another thread may be waiting for */
    if (first) {
        end_all(entry, (uintptr_t)handle >> INDEX_BITS, end);
    } else {
        status = no_such(kind, handle); /* another thread closes it */
    }
    pthread_mutex_unlock(&lock);
    return status;
}

void dsa_handles_visit(enum dsa_kind kind, void (*visit)(void *data, void *with), void *with)
{
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < used_blocks << BLOCK_BITS; i++) {
        struct entry *entry = entry_at(i);
        if (atomic_load(&entry->kind) == kind) {
            visit(entry->data, with);
        }
    }
    pthread_mutex_unlock(&lock);
}
