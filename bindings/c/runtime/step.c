/* The step, past cffi. After an inference the processor's caches hold little of anything else, and every line of Python
   costs ten times what it seems to: so Session.step is called as it is, and the Tick that it returns is read here. */

#define PY_SSIZE_T_CLEAN
#include <Python.h> /* first: it defines feature macros */

#define NO_IMPORT_ARRAY
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <numpy/ndarraytypes.h>

#include <math.h>
#include <string.h>

#include "host.h"
#include "python_error.h"

/* ---- Names ---- */

enum name {
    TICK, FRAME_TICK, STEPS, STOPPED_BY, CONFIDENCE, THRESHOLD, CREDIT, SLACK, STATUS, FRAMES, LATENCY,
    WAIT, DENOISE, ABANDONED, DECODE, SDK, TOTAL, /* in the latency */
    NAMES
};

static const char *const NAME[] = {
    "tick", "frame_tick", "steps", "stopped_by", "confidence", "threshold", "credit_ms", "slack_ms", "status", "frames",
    "latency_ms", "wait", "denoise", "abandoned", "decode", "sdk", "total",
};
static const char *const STATUSES[] = {"ok", "late", "repeated", "skipped"};                          /* DSA_OK ... */
static const char *const STOPPED[] = {"confidence", "budget", "ceiling", "request", "deadline"}; /* from 1 on */

enum { STATUS_COUNT = sizeof STATUSES / sizeof *STATUSES, STOPPED_COUNT = sizeof STOPPED / sizeof *STOPPED };

static PyObject *names[NAMES], *statuses[STATUS_COUNT], *stopped[STOPPED_COUNT], *keywords; /* Python's, for ever */

static bool intern(PyObject **interned, const char *const *words, int count)
{
    for (int i = 0; i < count; i++) {
        interned[i] = PyUnicode_InternFromString(words[i]);
        if (interned[i] == NULL) {
            return false;
        }
    }
    return true;
}

bool dsa_step_start(void)
{
    if (!intern(names, NAME, NAMES) || !intern(statuses, STATUSES, STATUS_COUNT) ||
        !intern(stopped, STOPPED, STOPPED_COUNT)) {
        return false;
    }
    keywords = PyTuple_Pack(1, names[STEPS]);
    return keywords != NULL;
}

/* ---- There ---- */

static PyObject *boxed_action(const dsa_py_stepper *stepper, const struct dsa_step *step)
{
    if (stepper->action != NULL) {
        memcpy(stepper->values, step->action, step->action_bytes);
        return Py_NewRef(stepper->action);
    }
    int32_t index;
    memcpy(&index, step->action, sizeof index);
    return PyLong_FromLong(index);
}

static PyObject *boxed_budget(uint64_t budget_us)
{
    if (budget_us == DSA_BUDGET_PERIOD) {
        return Py_NewRef(Py_None);
    }
    return PyFloat_FromDouble(budget_us == DSA_BUDGET_NONE ? INFINITY : (double)budget_us / 1000.0);
}

/* The Tick; NULL: an exception. */
static PyObject *call(const dsa_py_stepper *stepper, const struct dsa_step *step)
{
    PyObject *action = boxed_action(stepper, step), *budget = boxed_budget(step->budget_us);
    PyObject *steps = step->steps == 0 ? NULL : PyLong_FromUnsignedLong(step->steps);
    PyObject *given[] = {NULL, action, budget, steps}; /* the first is the callee's to use */
    PyObject *done = NULL;
    if (action != NULL && budget != NULL && (steps != NULL || step->steps == 0)) {
        done = PyObject_Vectorcall(stepper->step, given + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                   steps == NULL ? NULL : keywords);
    }
    Py_XDECREF(action);
    Py_XDECREF(budget);
    Py_XDECREF(steps);
    return done;
}

/* ---- Back. What is not there, or of another type, leaves an exception pending. ---- */

static long long integer(PyObject *object, enum name name)
{
    PyObject *value = PyObject_GetAttr(object, names[name]);
    long long found = value == NULL ? 0 : PyLong_AsLongLong(value);
    Py_XDECREF(value);
    return found;
}

static double real(PyObject *object, enum name name)
{
    PyObject *value = PyObject_GetAttr(object, names[name]);
    double found = value == NULL || value == Py_None ? DSA_UNSET : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    return found;
}

static int32_t word(PyObject *object, enum name name, PyObject *const *words, int32_t count)
{
    PyObject *value = PyObject_GetAttr(object, names[name]);
    int32_t place = value == NULL ? count : 0;
    while (place < count && PyObject_RichCompareBool(value, words[place], Py_EQ) != 1) {
        place++;
    }
    if (value != NULL && place == count) {
        PyErr_Format(PyExc_ValueError, "%U: unknown: %R", names[name], value);
    }
    Py_XDECREF(value);
    return place;
}

static double microseconds(PyObject *latency, enum name name)
{
    return PyFloat_AsDouble(PyDict_GetItemWithError(latency, names[name])) * 1000.0;
}

static void read_latency(PyObject *latency, dsa_tick *tick)
{
    tick->wait_us = microseconds(latency, WAIT);
    tick->abandoned_us = microseconds(latency, ABANDONED);
    tick->decode_us = microseconds(latency, DECODE);
    tick->sdk_us = microseconds(latency, SDK);
    tick->total_us = microseconds(latency, TOTAL);
    PyObject *denoise = PyDict_GetItemWithError(latency, names[DENOISE]);
    Py_ssize_t count = denoise == NULL ? 0 : PyTuple_Size(denoise);
    for (Py_ssize_t i = 0; i < count; i++) {
        double cost_us = PyFloat_AsDouble(PyTuple_GET_ITEM(denoise, i)) * 1000.0;
        tick->denoise_sum_us += cost_us;
        if (i < DSA_MOST_STEP_TIMES) {
            tick->denoise_us[i] = cost_us;
        }
    }
}

static void read_tick(const struct session *session, PyObject *done, uint64_t budget_us, dsa_tick *tick)
{
    dsa_tick_init(tick, sizeof *tick);
    tick->tick = (uint64_t)integer(done, TICK);
    tick->frame_tick = integer(done, FRAME_TICK);
    tick->steps = (uint32_t)integer(done, STEPS);
    tick->stopped_by = 1 + word(done, STOPPED_BY, stopped, STOPPED_COUNT);
    tick->confidence = real(done, CONFIDENCE);
    tick->threshold = real(done, THRESHOLD);
    tick->budget_us = budget_us == DSA_BUDGET_PERIOD ? session->period_us : budget_us;
    tick->credit_us = real(done, CREDIT) * 1000.0;
    tick->slack_us = budget_us == DSA_BUDGET_NONE ? 0 : real(done, SLACK) * 1000.0;
    PyObject *latency = PyObject_GetAttr(done, names[LATENCY]);
    if (latency != NULL) {
        read_latency(latency, tick);
        Py_DECREF(latency);
    }
}

/* By address, as its size is known: numpy takes microseconds to describe an array as a buffer. */
static void copy_frames(const struct session *session, PyObject *done, uint8_t *frame)
{
    PyObject *frames = PyObject_GetAttr(done, names[FRAMES]);
    if (frames != NULL && (void *)Py_TYPE(frames) == session->stepper.frames) {
        memcpy(frame, PyArray_DATA((PyArrayObject *)frames), session->tick_bytes);
    } else if (frames != NULL) {
        PyErr_SetString(PyExc_TypeError, "frames: no array");
    }
    Py_XDECREF(frames);
}

/* The pending exception, as the Python half sees it. */
static int32_t failed(const dsa_py_stepper *stepper)
{
    PyObject *error = take_error();
    PyObject *told = PyObject_CallFunctionObjArgs(stepper->report, error, NULL);
    int status = DSA_OK;
    const char *words = NULL;
    if (told == NULL || !PyArg_ParseTuple(told, "iy", &status, &words) || status >= DSA_OK ||
        status < -DSA_PY_MOST_STATUS) {
        PyErr_Clear();
        status = dsa_unanswered();
    } else {
        dsa_fail(status, "%s", words);
    }
    Py_XDECREF(told);
    Py_XDECREF(error);
    return status;
}

static int32_t make(const struct session *session, const struct dsa_step *step, dsa_tick *tick)
{
    PyObject *done = call(&session->stepper, step);
    int32_t status = done == NULL ? DSA_E_INTERNAL : word(done, STATUS, statuses, STATUS_COUNT);
    if (done != NULL && step->tick != NULL) {
        read_tick(session, done, step->budget_us, tick);
        tick->status = status;
    }
    if (step->frame != NULL && !PyErr_Occurred()) {
        copy_frames(session, done, step->frame);
    }
    Py_XDECREF(done);
    return PyErr_Occurred() ? failed(&session->stepper) : status;
}

int32_t dsa_step_run(dsa_session *handle, const struct dsa_step *step)
{
    void *data;
    int32_t status = dsa_enter(handle, DSA_KIND_SESSION, &data);
    if (status < 0) {
        return status;
    }
    const struct session *session = data;
    status = dsa_step_check(step, session->action_bytes, session->tick_bytes);
    if (status == DSA_OK) {
        dsa_tick tick;
        if (PyGILState_GetThisThreadState() == NULL) { /* cffi sees to it that the thread stays known */
            char message[DSA_MESSAGE_BYTES];
            dsa_py_thread_meet(message);
        }
        PyGILState_STATE lock = PyGILState_Ensure();
        status = make(session, step, &tick);
        PyGILState_Release(lock);
        if (status >= 0) {
            dsa_step_answer(step, &tick);
        }
    }
    dsa_leave(handle);
    return status;
}
