/* Counts the elements of a float32 array by their upper 16 bits, and finds its minimum and maximum, in one pass.
 * Optional: qtool/core/counting.py has the same in numpy, for machines without a C compiler. */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define BINS 65536
#define SIGN 0x8000
/* Four counters take turns: after a ReLU half of the elements are zero, and incrementing one memory cell again and
 * again waits each time for the store before it. */
#define LANES 4
/* Elements that stay in the first-level cache between the two loops. */
#define BLOCK 512
/* Elements of a cache line. */
#define LINE 16
#define INFINITY_BITS 0x7f800000

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define VECTORIZED __attribute__((target_clones("avx2", "default")))
#endif
#endif
/* The next blocks come from memory while this one is counted; an address past the end does no harm. */
#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)0)
#endif
#ifndef VECTORIZED
#define VECTORIZED
#endif

/* The order of floats as the order of signed integers; its own inverse. */
static inline int32_t ordered(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

/* What is known of the elements so far: smallest and largest as ordered integers, and the smallest magnitude but zero,
 * as its bits less one (so that zero, which wraps round, is no candidate). */
struct extremes {
    int32_t low, high;
    uint32_t tiny;
};

VECTORIZED void qtool_extremes(const int32_t *x, Py_ssize_t n, struct extremes *known);

VECTORIZED void qtool_extremes(const int32_t *x, Py_ssize_t n, struct extremes *known)
{
    int32_t low = known->low, high = known->high;
    uint32_t tiny = known->tiny;
    for (Py_ssize_t i = 0; i < n; i++) {
        int32_t value = ordered(x[i]);
        uint32_t magnitude = ((uint32_t)x[i] & 0x7fffffff) - 1;
        low = value < low ? value : low;
        high = value > high ? value : high;
        tiny = magnitude < tiny ? magnitude : tiny;
    }
    known->low = low;
    known->high = high;
    known->tiny = tiny;
}

static void tally(const uint32_t *x, Py_ssize_t n, uint32_t (*lanes)[LANES])
{
    Py_ssize_t i = 0;
    for (; i + LINE <= n; i += LINE) {
        PREFETCH(x + i + 2 * BLOCK);
        for (Py_ssize_t j = i; j < i + LINE; j += LANES) {
            lanes[x[j] >> 16][0]++;
            lanes[x[j + 1] >> 16][1]++;
            lanes[x[j + 2] >> 16][2]++;
            lanes[x[j + 3] >> 16][3]++;
        }
    }
    for (; i < n; i++)
        lanes[x[i] >> 16][0]++;
}

/* Add the lanes of the keys first..last to counts, and clear them. */
static void merge(uint32_t (*lanes)[LANES], int64_t *counts, uint32_t first, uint32_t last)
{
    for (uint32_t k = first; k <= last; k++) {
        counts[k] += (int64_t)lanes[k][0] + lanes[k][1] + lanes[k][2] + lanes[k][3];
        memset(lanes[k], 0, sizeof lanes[k]);
    }
}

/* Returns 1, or 0 where there is NaN or Inf; then nothing has been counted. */
static int count_all(const uint32_t *x, Py_ssize_t n, uint32_t (*lanes)[LANES], int64_t *counts,
                     struct extremes *known)
{
    for (Py_ssize_t i = 0; i < n; i += BLOCK) {
        Py_ssize_t size = n - i < BLOCK ? n - i : BLOCK;
        qtool_extremes((const int32_t *)x + i, size, known);
        if (known->high >= INFINITY_BITS || known->low <= ordered((int32_t)0xff800000)) {
            memset(lanes, 0, BINS * sizeof *lanes);
            return 0;
        }
        tally(x + i, size, lanes);
    }
    /* only keys that can occur: the zeros, and from the smallest magnitude to the largest of either sign */
    uint32_t smallest = (known->tiny + 1) >> 16;
    merge(lanes, counts, 0, 0);
    merge(lanes, counts, SIGN, SIGN);
    if (known->high > 0)
        merge(lanes, counts, smallest ? smallest : 1, (uint32_t)known->high >> 16);
    if (known->low < 0)
        merge(lanes, counts, SIGN + (smallest ? smallest : 1), (uint32_t)ordered(known->low) >> 16);
    return 1;
}

static double as_double(int32_t value)
{
    int32_t bits = ordered(value);
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

static PyObject *count(PyObject *module, PyObject *args)
{
    Py_buffer x, lanes, counts;
    struct extremes known = {INT32_MAX, INT32_MIN, UINT32_MAX};
    Py_ssize_t size;
    int finite;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*w*w*", &x, &lanes, &counts))
        return NULL;
    size = x.len;
    if (size == 0 || size % 4 || lanes.len != LANES * BINS * 4 || counts.len != BINS * 8) {
        PyErr_SetString(PyExc_ValueError, "buffers of the wrong size");
        PyBuffer_Release(&x), PyBuffer_Release(&lanes), PyBuffer_Release(&counts);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    finite = count_all(x.buf, size / 4, lanes.buf, counts.buf, &known);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&x), PyBuffer_Release(&lanes), PyBuffer_Release(&counts);
    if (!finite)
        Py_RETURN_NONE;
    return Py_BuildValue("(dd)", as_double(known.low), as_double(known.high));
}

static PyMethodDef methods[] = {
    {"count", count, METH_VARARGS,
     "count(x, lanes, counts): add the upper 16 bits of the float32 in x (not empty) to counts (int64[65536]); lanes\n"
     "is scratch (uint32[65536, 4], zero before and after). Returns (minimum, maximum), or None for NaN or Inf."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_count", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__count(void) { return PyModule_Create(&definition); }
