/* How Python is found and started. Nothing here ends the process: what Python's own initialisation would exit for comes
   back as a PyStatus. */

#define PY_SSIZE_T_CLEAN
#include <Python.h> /* first: it defines feature macros */

#include <ctype.h>
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"
#include "python_error.h"

#ifndef DSA_BUILT_BY
#error "DSA_BUILT_BY: path of the Python that builds the library"
#endif

static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static bool owned, ready, broken;
static char environment[PATH_MAX]; /* its bin/python; "" if Python was there */

int32_t dsa_host_owns_python(void) { return owned; }

static int32_t wrong_version(const char *python, const char *found)
{
    return dsa_fail(DSA_E_START,
                    "python: %s is Python %s, this library was built for %d.%d; build it with that Python: "
                    "%s -m dsa_runtime.capi build",
                    python, found, PY_MAJOR_VERSION, PY_MINOR_VERSION, python);
}

/* DSA_OK if "3.11.7" is of the minor version that the library was built for, or cannot be read. */
static int32_t check_version(const char *python, const char *found)
{
    int major, minor;
    if (sscanf(found, "%d.%d", &major, &minor) == 2 && (major != PY_MAJOR_VERSION || minor != PY_MINOR_VERSION)) {
        return wrong_version(python, found);
    }
    return DSA_OK;
}

/* The version that the pyvenv.cfg of a virtual environment states. */
static int32_t check_environment(const char *python, const char *file)
{
    FILE *stream = fopen(file, "r");
    if (stream == NULL) {
        return DSA_OK;
    }
    int32_t status = DSA_OK;
    char line[PATH_MAX + 64], key[32], value[64];
    while (status == DSA_OK && fgets(line, sizeof line, stream) != NULL) {
        if (sscanf(line, " %31[a-z_] = %63s", key, value) == 2 &&
            (strcmp(key, "version") == 0 || strcmp(key, "version_info") == 0)) {
            status = check_version(python, value);
        }
    }
    fclose(stream);
    return status;
}

/* Whether `python` can be the executable of an environment for this library. Python itself does not look: it would
   take any, and run with the standard library of one version and the packages of another. */
static int32_t check_python(const char *python)
{
    char path[PATH_MAX + 16], real[PATH_MAX];
    if (strlen(python) >= PATH_MAX) {
        return dsa_fail(DSA_E_START, "python: the path is too long");
    }
    if (access(python, X_OK) != 0 || realpath(python, real) == NULL) {
        return dsa_fail(DSA_E_START, "python: %s: not there, or cannot be run", python);
    }
    strcpy(path, python);
    char *slash = strrchr(path, '/');
    if (slash != NULL) {
        strcpy(slash, "/../pyvenv.cfg");
        int32_t status = check_environment(python, path);
        if (status < 0) {
            return status;
        }
    }
    slash = strrchr(real, '/');
    return strncmp(slash, "/python", 7) == 0 && isdigit((unsigned char)slash[7]) ? check_version(python, slash + 7)
                                                                                  : DSA_OK;
}

/* Fill `environment`: what was asked for, else what the surroundings say, else what built this library. */
static int32_t find_python(const char *asked)
{
    const char *variable = getenv("DSA_PYTHON"), *active = getenv("VIRTUAL_ENV");
    char inside[PATH_MAX];
    if (asked == NULL && variable != NULL && variable[0] != '\0') {
        asked = variable;
    }
    if (asked == NULL && active != NULL && active[0] != '\0') {
        if (snprintf(inside, sizeof inside, "%s/bin/python", active) < (int)sizeof inside) {
            asked = inside;
        }
    }
    if (asked == NULL) {
        asked = DSA_BUILT_BY;
    }
    int32_t status = check_python(asked);
    if (status == DSA_OK) {
        strcpy(environment, asked);
    }
    return status;
}

/* Extension modules do not link libpython, they expect its symbols to be there. They are not if the host has loaded
   this library with RTLD_LOCAL, as hosts of plugins do. */
static void make_python_global(void)
{
    Dl_info found;
    union {
        int (*function)(void);
        void *address;
    } symbol = {Py_IsInitialized};
    if (dladdr(symbol.address, &found) != 0) {
        dlopen(found.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
    }
}

/* Python prints a page about this before it gives up. PYTHONHOME is PREFIX or PREFIX:EXEC_PREFIX. */
static int32_t check_home(void)
{
    const char *home = getenv("PYTHONHOME");
    char path[PATH_MAX];
    if (home == NULL || home[0] == '\0') {
        return DSA_OK;
    }
    snprintf(path, sizeof path, "%.*s/lib/python%d.%d/os.py", (int)strcspn(home, ":"), home, PY_MAJOR_VERSION,
             PY_MINOR_VERSION);
    if (access(path, R_OK) != 0) {
        return dsa_fail(DSA_E_START,
                        "PYTHONHOME: %s holds no Python %d.%d; unset it (an environment is given as `python`)", home,
                        PY_MAJOR_VERSION, PY_MINOR_VERSION);
    }
    return DSA_OK;
}

static int32_t failed(PyConfig *config, PyStatus status)
{
    broken = true; /* Python cannot be begun again where it has stopped half way */
    dsa_fail(DSA_E_START, "Python could not start (%s%s%s); is PYTHONPATH set to another Python?",
             status.func == NULL ? "" : status.func, status.func == NULL ? "" : ": ",
             status.err_msg == NULL ? "unknown error" : status.err_msg);
    if (config != NULL) {
        PyConfig_Clear(config);
    }
    return DSA_E_START;
}

static int32_t initialize(void)
{
    PyPreConfig before;
    PyPreConfig_InitPythonConfig(&before);
    before.parse_argv = 0;
    before.configure_locale = 0; /* the locale is the host's; so are the environment and stdio, below */
    before.coerce_c_locale = 0;
    before.coerce_c_locale_warn = 0;
    before.utf8_mode = 1;
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status)) {
        return failed(NULL, status);
    }
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    config.install_signal_handlers = 0;
    config.configure_c_stdio = 0;
    config.pathconfig_warnings = 0;
    status = PyConfig_SetBytesString(&config, &config.executable, environment);
    if (!PyStatus_Exception(status)) {
        status = Py_InitializeFromConfig(&config);
    }
    if (PyStatus_Exception(status)) {
        return failed(&config, status);
    }
    PyConfig_Clear(&config);
    PyEval_SaveThread(); /* from here on every call takes the lock for itself */
    owned = true;
    return DSA_OK;
}

/* The pending exception as DSA_E_START, cleared. */
static int32_t import_failed(const char *module)
{
    PyObject *error = take_error();
    PyObject *text = error == NULL ? NULL : PyObject_Str(error);
    const char *words = text == NULL ? NULL : PyUnicode_AsUTF8(text);
    dsa_fail(DSA_E_START, "%s: %s; is dsa-runtime installed there? (%s -m pip install dsa-runtime)", module,
             words == NULL ? "cannot be imported" : words, environment[0] == '\0' ? "python" : environment);
    Py_XDECREF(text);
    Py_XDECREF(error);
    PyErr_Clear();
    return DSA_E_START;
}

/* With Python's lock: import what is needed, so that cffi, which would print and go on, has nothing to complain
   about. */
static int32_t import_package(void)
{
    PyObject *backend = PyImport_ImportModule("_cffi_backend");
    if (backend == NULL) {
        return import_failed("cffi");
    }
    Py_DECREF(backend);
    PyObject *half = PyImport_ImportModule("dsa_runtime.capi.embedded");
    if (half == NULL) {
        return import_failed("dsa_runtime");
    }
    PyObject *digest = PyObject_CallMethod(half, "source_digest", NULL);
    Py_DECREF(half);
    if (digest == NULL) {
        return import_failed("dsa_runtime");
    }
    const char *words = PyUnicode_AsUTF8(digest);
    bool same = words != NULL && strcmp(words, DSA_SOURCE_DIGEST) == 0;
    Py_DECREF(digest);
    if (!same) {
        PyErr_Clear();
        return dsa_fail(DSA_E_START,
                        "the installed package dsa_runtime is of another version than this library; build the "
                        "library again: %s -m dsa_runtime.capi build",
                        environment[0] == '\0' ? "python" : environment);
    }
    return dsa_step_start() ? DSA_OK : import_failed("dsa_runtime");
}

static int32_t start(const char *python)
{
    if (broken) {
        return dsa_fail(DSA_E_START, "Python has failed to start in this process before, and cannot be started again");
    }
    if (ready || owned) {
        if (python != NULL && strcmp(python, environment) != 0) {
            return dsa_fail(DSA_E_START,
                            "python: a process has one Python, and this one's is %s; leave it out, or give that",
                            environment[0] == '\0' ? "the host's" : environment);
        }
        if (ready) {
            return DSA_OK;
        }
    } else if (!Py_IsInitialized()) {
        int32_t status = find_python(python);
        if (status == DSA_OK) {
            status = check_home();
        }
        if (status == DSA_OK) {
            make_python_global();
            status = initialize();
        }
        if (status < 0) {
            return status;
        }
    }
    PyGILState_STATE lock = PyGILState_Ensure();
    int32_t status = import_package();
#if PY_VERSION_HEX < 0x030C0000
    /* cffi's start takes this field, which is nobody's as a rule, for a lock, and ends the process where it is not 0: in a
       Python that was there before us, somebody may have looked up an attribute of a capsule, which numbers the type. */
    PyType_Modified(&PyCapsule_Type);
    PyCapsule_Type.tp_version_tag = 0;
#endif
    PyGILState_Release(lock);
    if (status < 0) {
        return status;
    }
    if (dsa_glue_start() != 0) {
        return dsa_fail(DSA_E_START, "the Python half could not be loaded");
    }
    ready = true;
    return DSA_OK;
}

int32_t dsa_python_start(const char *python)
{
    pthread_mutex_lock(&starting);
    int32_t status = start(python);
    pthread_mutex_unlock(&starting);
    return status;
}
