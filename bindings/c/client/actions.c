/* Actions: checked here, as a session of this process would, and written into messages. */

#include <string.h>

#include "client.h"

int32_t check_action(const dsa_spec *spec, const void *action)
{
    if (spec->action_type == DSA_DISCRETE) {
        int32_t choice;
        memcpy(&choice, action, sizeof choice);
        if (choice < 0 || (uint32_t)choice >= spec->action_count) {
            return dsa_fail(DSA_E_ACTION, "expected an integer in 0..%u, got %d", spec->action_count - 1, (int)choice);
        }
        return DSA_OK;
    }
    for (uint32_t i = 0; i < spec->action_count; i++) {
        if (spec->action_type == DSA_MULTI_BINARY) {
            uint8_t value = ((const uint8_t *)action)[i];
            if (value > 1) {
                return dsa_fail(DSA_E_ACTION, "component %u (%s): expected 0 or 1, got %u", i, spec->action_names[i],
                                (unsigned)value);
            }
        } else {
            float value;
            memcpy(&value, (const char *)action + i * sizeof value, sizeof value);
            if (!(value >= spec->action_low[i] && value <= spec->action_high[i])) { /* NaN is outside as well */
                return dsa_fail(DSA_E_ACTION, "component %u (%s): expected a value in [%g, %g], got %g", i,
                                spec->action_names[i], (double)spec->action_low[i], (double)spec->action_high[i],
                                (double)value);
            }
        }
    }
    return DSA_OK;
}

void put_action(struct request *request, const dsa_spec *spec, const void *action)
{
    if (spec->action_type == DSA_DISCRETE) {
        int32_t choice;
        memcpy(&choice, action, sizeof choice);
        put_int(request, choice);
        return;
    }
    put_array(request, spec->action_count);
    for (uint32_t i = 0; i < spec->action_count; i++) {
        if (spec->action_type == DSA_MULTI_BINARY) {
            put_uint(request, ((const uint8_t *)action)[i]);
        } else {
            float value;
            memcpy(&value, (const char *)action + i * sizeof value, sizeof value);
            put_float(request, value);
        }
    }
}
