/* Steps: what they are called with, and the answer. */

#include "dsa_common.h"

DSA_API int32_t dsa_session_step(dsa_session *session, const void *action, size_t action_bytes, uint64_t budget_us,
                                 uint8_t *frame, size_t frame_bytes, dsa_tick *tick)
{
    struct dsa_step step = {action, action_bytes, budget_us, 0, frame, frame_bytes, tick, dsa_now_us()};
    return dsa_step_run(session, &step);
}

DSA_API int32_t dsa_session_step_exactly(dsa_session *session, const void *action, size_t action_bytes, uint32_t steps,
                                         uint64_t budget_us, uint8_t *frame, size_t frame_bytes, dsa_tick *tick)
{
    if (steps == 0) {
        return dsa_fail(DSA_E_BUDGET, "steps: must be at least 1, got 0");
    }
    struct dsa_step step = {action, action_bytes, budget_us, steps, frame, frame_bytes, tick, dsa_now_us()};
    return dsa_step_run(session, &step);
}

int32_t dsa_check_frame(const uint8_t *frame, size_t frame_bytes, size_t needed)
{
    if (frame == NULL && frame_bytes != 0) {
        return dsa_fail(DSA_E_ARGUMENT, "frame: NULL, but frame_bytes is %zu; both or neither", frame_bytes);
    }
    if (frame != NULL && frame_bytes < needed) {
        return dsa_fail(DSA_E_BUFFER, "frame_bytes: %zu are needed, got %zu", needed, frame_bytes);
    }
    return DSA_OK;
}

int32_t dsa_step_check(const struct dsa_step *step, size_t action_bytes, size_t tick_bytes)
{
    int32_t status = step->tick == NULL ? DSA_OK : DSA_CHECK_OUTPUT(dsa_tick, step->tick);
    if (status < 0) {
        return status;
    }
    if (step->action == NULL) {
        return dsa_fail(DSA_E_ARGUMENT, "action: must not be NULL");
    }
    if (step->action_bytes != action_bytes) {
        return dsa_fail(DSA_E_ACTION, "action_bytes: an action of this world has %zu, got %zu", action_bytes,
                        step->action_bytes);
    }
    return dsa_check_frame(step->frame, step->frame_bytes, tick_bytes);
}

void dsa_step_answer(const struct dsa_step *step, dsa_tick *tick)
{
    if (step->tick != NULL) {
        tick->call_us = dsa_now_us() - step->called_us;
        dsa_copy_out(step->tick, tick, sizeof *tick);
    }
}
