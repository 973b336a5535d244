/* The pending exception of Python, in any of its versions. */

#ifndef DSA_PYTHON_ERROR_H
#define DSA_PYTHON_ERROR_H

#include <Python.h>

/* It is pending no more, and the caller's. NULL: there is none. */
static inline PyObject *take_error(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (value != NULL && trace != NULL) {
        PyException_SetTraceback(value, trace);
    }
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return value;
#endif
}

#endif
