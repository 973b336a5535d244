/* Controllers, to and from the maps of messages and snapshots. Times there are milliseconds. */

#include "client.h"

static const char *const POLICIES[] = {"gain", "fixed", "paper"};

/* Only what a message cannot say; the server checks the rest. */
int32_t check_controller(const dsa_controller *controller)
{
    const struct {
        const char *name;
        double value;
    } numbers[] = {
        {"threshold", controller->threshold},       {"target_steps", controller->target_steps},
        {"target_load", controller->target_load},   {"credit_us", controller->credit_us},
        {"guard_us", controller->guard_us},         {"quantile", controller->quantile},
        {"step_quantile", controller->step_quantile},
    };
    if (controller->policy < DSA_POLICY_GAIN || controller->policy > DSA_POLICY_PAPER) {
        return dsa_fail(DSA_E_BUDGET, "controller.policy: expected DSA_POLICY_GAIN, _FIXED or _PAPER, got %d",
                        (int)controller->policy);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (!isfinite(numbers[i].value)) {
            return dsa_fail(DSA_E_BUDGET, "controller.%s: must be finite", numbers[i].name);
        }
    }
    return DSA_OK;
}

void put_controller(struct request *request, const dsa_controller *controller)
{
    put_map(request, 12);
    put_name(request, "policy");
    put_text(request, POLICIES[controller->policy]);
    put_name(request, "threshold");
    put_real_or_nil(request, controller->threshold);
    put_name(request, "min_steps");
    put_uint(request, controller->min_steps);
    put_name(request, "max_steps");
    if (controller->max_steps) {
        put_uint(request, controller->max_steps);
    } else {
        put_nil(request);
    }
    put_name(request, "target_steps");
    put_real_or_nil(request, controller->target_steps);
    put_name(request, "target_load");
    put_real_or_nil(request, controller->target_load);
    put_name(request, "settle_ticks");
    put_uint(request, controller->settle_ticks);
    put_name(request, "credit_ms");
    put_real(request, controller->credit_us / 1000);
    put_name(request, "quantile");
    put_real(request, controller->quantile);
    put_name(request, "step_quantile");
    put_real(request, controller->step_quantile);
    put_name(request, "guard_ms");
    put_real(request, controller->guard_us / 1000);
    put_name(request, "rescue");
    put_bool(request, controller->rescue != 0);
}

void read_controller(const msgpack_object *map, dsa_controller *controller)
{
    dsa_controller_init(controller, sizeof *controller);
    for (int32_t policy = DSA_POLICY_GAIN; policy <= DSA_POLICY_PAPER; policy++) {
        if (is_text(get(map, "policy"), POLICIES[policy])) {
            controller->policy = policy;
        }
    }
    controller->threshold = get_real(map, "threshold", DSA_UNSET);
    controller->target_steps = get_real(map, "target_steps", DSA_UNSET);
    controller->target_load = get_real(map, "target_load", DSA_UNSET);
    controller->min_steps = (uint32_t)get_uint(map, "min_steps");
    controller->max_steps = (uint32_t)get_uint(map, "max_steps");
    controller->settle_ticks = (uint32_t)get_uint(map, "settle_ticks");
    controller->rescue = get_bool(map, "rescue");
    controller->credit_us = 1000 * get_real(map, "credit_ms", 0);
    controller->guard_us = 1000 * get_real(map, "guard_ms", 0);
    controller->quantile = get_real(map, "quantile", 0);
    controller->step_quantile = get_real(map, "step_quantile", 0);
}
