/* Versions, statuses, errors and structs. */

#define _POSIX_C_SOURCE 200809L
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "dsa_common.h"

static _Thread_local char last_error[DSA_MESSAGE_BYTES];

DSA_API uint32_t dsa_version(void) { return DSA_VERSION; }

DSA_API const char *dsa_last_error(void) { return last_error; }

int32_t dsa_fail(int32_t status, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    vsnprintf(last_error, sizeof last_error, format, values);
    va_end(values);
    return status;
}

DSA_API const char *dsa_status_name(int32_t status)
{
    switch (status) {
#define NAME(name) \
    case name: return #name;
        NAME(DSA_OK)
        NAME(DSA_LATE)
        NAME(DSA_REPEATED)
        NAME(DSA_SKIPPED)
        NAME(DSA_E_ARGUMENT)
        NAME(DSA_E_STRUCT)
        NAME(DSA_E_START)
        NAME(DSA_E_HANDLE)
        NAME(DSA_E_BUFFER)
        NAME(DSA_E_INTERNAL)
        NAME(DSA_E_WORLD)
        NAME(DSA_E_ACTION)
        NAME(DSA_E_BUDGET)
        NAME(DSA_E_QUALITY)
        NAME(DSA_E_SESSION)
        NAME(DSA_E_BUSY)
        NAME(DSA_E_ENGINE)
        NAME(DSA_E_DEADLINE)
        NAME(DSA_E_CANCELLED)
        NAME(DSA_E_SNAPSHOT)
        NAME(DSA_E_GONE)
        NAME(DSA_E_CAPACITY)
        NAME(DSA_E_MEMORY)
        NAME(DSA_E_FORKED)
        NAME(DSA_E_UNSUPPORTED)
        NAME(DSA_E_PROMPT)
#undef NAME
    default: return "unknown status";
    }
}

double dsa_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

/* Whether a version of the struct has, or may have in time, so many bytes. */
static bool is_size(size_t bytes, size_t first, size_t known)
{
    return bytes == first || (bytes >= known && bytes <= 65536);
}

int32_t dsa_check_struct(const char *name, const void *given, size_t first, size_t known, bool is_input)
{
    uint32_t bytes;
    memcpy(&bytes, given, sizeof bytes);
    if (!is_size(bytes, first, known)) {
        return dsa_fail(DSA_E_STRUCT, "%s.struct_size: expected %zu, got %u; call %s_init(&it, sizeof it) first", name,
                        known, (unsigned)bytes, name);
    }
    for (size_t i = known; is_input && i < bytes; i++) {
        if (((const unsigned char *)given)[i]) {
            return dsa_fail(DSA_E_STRUCT,
                            "%s: byte %zu belongs to a field that this library does not know; use a newer library, or "
                            "leave the field alone",
                            name, i);
        }
    }
    return DSA_OK;
}

int32_t dsa_take(const char *name, void *ours, size_t known, const void *given, size_t first)
{
    if (given == NULL) {
        return DSA_OK;
    }
    int32_t status = dsa_check_struct(name, given, first, known, true);
    if (status == DSA_OK) {
        uint32_t bytes;
        memcpy(&bytes, given, sizeof bytes);
        size_t copied = bytes < known ? bytes : known;
        memcpy((char *)ours + sizeof bytes, (const char *)given + sizeof bytes, copied - sizeof bytes);
    }
    return status;
}

void dsa_copy_out(void *given, const void *ours, size_t known)
{
    uint32_t bytes;
    memcpy(&bytes, given, sizeof bytes);
    size_t copied = bytes < known ? bytes : known;
    memcpy((char *)given + sizeof bytes, (const char *)ours + sizeof bytes, copied - sizeof bytes);
}

/* The struct zeroed but for its size; false with a message if that is none. */
static bool clear(const char *name, void *given, size_t bytes, size_t first, size_t known)
{
    if (given == NULL) {
        dsa_fail(DSA_E_ARGUMENT, "%s_init: NULL", name);
        return false;
    }
    if (!is_size(bytes, first, known)) {
        dsa_fail(DSA_E_STRUCT, "%s_init: expected sizeof(%s) = %zu, got %zu", name, name, known, bytes);
        return false;
    }
    memset(given, 0, bytes);
    uint32_t size = (uint32_t)bytes;
    memcpy(given, &size, sizeof size);
    return true;
}

#define CLEAR(type, pointer, bytes)                                                                \
    if (!clear(#type, (pointer), (bytes), DSA_FIRST_##type, sizeof(type))) {                       \
        return (pointer) == NULL ? DSA_E_ARGUMENT : DSA_E_STRUCT;                                  \
    }

DSA_API int32_t dsa_runtime_config_init(dsa_runtime_config *config, size_t struct_size)
{
    CLEAR(dsa_runtime_config, config, struct_size)
    config->log_level = DSA_LOG_WARNING;
    config->timeout_us = 10000000;
    return DSA_OK;
}

DSA_API int32_t dsa_world_config_init(dsa_world_config *config, size_t struct_size)
{
    CLEAR(dsa_world_config, config, struct_size)
    config->quality_alpha = config->quality_delta = DSA_UNSET;
    return DSA_OK;
}

DSA_API int32_t dsa_session_config_init(dsa_session_config *config, size_t struct_size)
{
    CLEAR(dsa_session_config, config, struct_size)
    return DSA_OK;
}

DSA_API int32_t dsa_controller_init(dsa_controller *controller, size_t struct_size)
{
    CLEAR(dsa_controller, controller, struct_size)
    controller->threshold = controller->target_steps = controller->target_load = DSA_UNSET;
    controller->min_steps = 1;
    controller->settle_ticks = 32;
    controller->rescue = 1;
    controller->guard_us = 1500;
    controller->quantile = 0.96;
    controller->step_quantile = 0.5;
    return DSA_OK;
}

DSA_API int32_t dsa_spec_init(dsa_spec *spec, size_t struct_size)
{
    CLEAR(dsa_spec, spec, struct_size)
    return DSA_OK;
}

DSA_API int32_t dsa_tick_init(dsa_tick *tick, size_t struct_size)
{
    CLEAR(dsa_tick, tick, struct_size)
    return DSA_OK;
}

DSA_API int32_t dsa_session_state_init(dsa_session_state *state, size_t struct_size)
{
    CLEAR(dsa_session_state, state, struct_size)
    return DSA_OK;
}
