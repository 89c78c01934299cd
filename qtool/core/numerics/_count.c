/* Counts the elements of a float32 array by their upper 16 bits, and finds its minimum and maximum, in one pass.
 * Optional: qtool/core/counting.py has the same in numpy, for machines without a C compiler.
 *
 * A block is first squeezed: what is zero, or equals the largest value so far, is left out of what is then counted one
 * by one. Behind a ReLU that is a third or more of all elements, and a memory cell that is incremented again and again
 * waits each time for the store before it. What was tried beside this is in docs/lab-notebook.md. */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define BINS 65536
#define SIGN 0x80000000u
#define INFINITY_BITS 0x7f800000
/* Elements whose squeezed form stays in the first-level cache. */
#define BLOCK 512
/* Elements of a cache line; vectors take a divisor of it. */
#define LINE 16

#if defined(__GNUC__)
/* The next blocks come from memory while this one is counted; an address past the end does no harm. */
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)0)
#endif

/* What is known of the elements so far, as their bits. The largest as a signed integer is the maximum, if it is no
 * negative float; the largest as an unsigned one is the minimum, if it is a negative float. `tiny`, the smallest
 * unsigned, is taken of the bits less one, so that zero, which wraps round, is no candidate. */
struct known {
    int32_t high, low;
    uint32_t deep, tiny;
    Py_ssize_t zeros;
};

/* Writes the elements of x (n of them, a multiple of LINE) to `kept`, in order, but no zeros and as few as it can of those
 * that equal known->high; returns how many. May write LINE elements more. */
typedef int squeeze_function(const uint32_t *x, int n, uint32_t *kept, struct known *known);

static int squeeze(const uint32_t *x, int n, uint32_t *kept, struct known *known)
{
    int32_t high = known->high, low = known->low;
    uint32_t deep = known->deep, tiny = known->tiny;
    int m = 0;
    for (int i = 0; i < n; i++) {
        int32_t value = (int32_t)x[i];
        uint32_t less = x[i] - 1;
        high = value > high ? value : high;
        low = value < low ? value : low;
        deep = x[i] > deep ? x[i] : deep;
        tiny = less < tiny ? less : tiny;
    }
    for (int i = 0; i < n; i++) {
        kept[m] = x[i];
        m += x[i] != 0;
    }
    known->high = high, known->low = low, known->deep = deep, known->tiny = tiny, known->zeros += n - m;
    return m;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

__attribute__((target("avx512f,popcnt"))) static int squeeze_avx512(const uint32_t *x, int n, uint32_t *kept,
                                                                    struct known *known)
{
    const __m512i one = _mm512_set1_epi32(1), top = _mm512_set1_epi32(known->high);
    __m512i high = top, low = _mm512_set1_epi32(known->low), deep = _mm512_set1_epi32((int)known->deep);
    __m512i tiny = _mm512_set1_epi32((int)known->tiny);
    int m = 0, zeros = 0;
    for (int i = 0; i < n; i += 16) {
        PREFETCH(x + i + 2 * BLOCK);
        __m512i value = _mm512_loadu_si512(x + i);
        __mmask16 some = _mm512_test_epi32_mask(value, value);
        __mmask16 mask = _mm512_mask_cmpneq_epi32_mask(some, value, top);
        high = _mm512_max_epi32(high, value);
        low = _mm512_min_epi32(low, value);
        deep = _mm512_max_epu32(deep, value);
        tiny = _mm512_min_epu32(tiny, _mm512_sub_epi32(value, one));
        _mm512_storeu_si512(kept + m, _mm512_maskz_compress_epi32(mask, value));
        zeros += 16 - __builtin_popcount(some);
        m += __builtin_popcount(mask);
    }
    known->high = _mm512_reduce_max_epi32(high);
    known->low = _mm512_reduce_min_epi32(low);
    known->deep = _mm512_reduce_max_epu32(deep);
    known->tiny = _mm512_reduce_min_epu32(tiny);
    known->zeros += zeros;
    return m;
}

/* For each mask of eight lanes the lanes that it holds, in order. */
static uint8_t chosen_lanes[256][8];

__attribute__((target("avx2,popcnt"))) static int squeeze_avx2(const uint32_t *x, int n, uint32_t *kept,
                                                               struct known *known)
{
    const __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi32(1), top = _mm256_set1_epi32(known->high);
    __m256i high = top, low = _mm256_set1_epi32(known->low), deep = _mm256_set1_epi32((int)known->deep);
    __m256i tiny = _mm256_set1_epi32((int)known->tiny);
    int32_t highs[8], lows[8];
    uint32_t deeps[8], tinies[8];
    int m = 0, zeros = 0;
    for (int i = 0; i < n; i += 8) {
        if (i % LINE == 0)
            PREFETCH(x + i + 2 * BLOCK);
        __m256i value = _mm256_loadu_si256((const __m256i *)(x + i));
        __m256i none = _mm256_cmpeq_epi32(value, zero);
        int without = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_or_si256(none, _mm256_cmpeq_epi32(value, top))));
        high = _mm256_max_epi32(high, value);
        low = _mm256_min_epi32(low, value);
        deep = _mm256_max_epu32(deep, value);
        tiny = _mm256_min_epu32(tiny, _mm256_sub_epi32(value, one));
        __m128i order = _mm_loadl_epi64((const __m128i *)chosen_lanes[without ^ 255]);
        value = _mm256_permutevar8x32_epi32(value, _mm256_cvtepu8_epi32(order));
        _mm256_storeu_si256((__m256i *)(kept + m), value);
        zeros += __builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(none)));
        m += 8 - __builtin_popcount((unsigned)without);
    }
    _mm256_storeu_si256((__m256i *)highs, high);
    _mm256_storeu_si256((__m256i *)lows, low);
    _mm256_storeu_si256((__m256i *)deeps, deep);
    _mm256_storeu_si256((__m256i *)tinies, tiny);
    for (int lane = 0; lane < 8; lane++) {
        known->high = highs[lane] > known->high ? highs[lane] : known->high;
        known->low = lows[lane] < known->low ? lows[lane] : known->low;
        known->deep = deeps[lane] > known->deep ? deeps[lane] : known->deep;
        known->tiny = tinies[lane] < known->tiny ? tinies[lane] : known->tiny;
    }
    known->zeros += zeros;
    return m;
}

static squeeze_function *const squeezes[] = {squeeze, squeeze_avx2, squeeze_avx512};

static int supported(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("popcnt"))
        return 0;
    return __builtin_cpu_supports("avx512f") ? 2 : 1;
}

static void prepare(void)
{
    for (int mask = 0; mask < 256; mask++)
        for (int lane = 0, m = 0; lane < 8; lane++)
            if (mask >> lane & 1)
                chosen_lanes[mask][m++] = (uint8_t)lane;
}
#else
static squeeze_function *const squeezes[] = {squeeze};
static int supported(void) { return 0; }
static void prepare(void) {}
#endif

static void tally(const uint32_t *x, int n, uint32_t *scratch)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        scratch[x[i] >> 16]++;
        scratch[x[i + 1] >> 16]++;
        scratch[x[i + 2] >> 16]++;
        scratch[x[i + 3] >> 16]++;
    }
    for (; i < n; i++)
        scratch[x[i] >> 16]++;
}

/* Add the keys first..last of scratch to counts, and clear them. */
static void merge(uint32_t *scratch, int64_t *counts, uint32_t first, uint32_t last)
{
    for (uint32_t k = first; k <= last; k++)
        counts[k] += scratch[k];
    memset(scratch + first, 0, (last - first + 1) * sizeof *scratch);
}

/* Returns 1, or 0 where there is NaN or Inf; then nothing has been counted. */
static int count_all(const uint32_t *x, Py_ssize_t n, uint32_t *scratch, int64_t *counts, squeeze_function *vector,
                     struct known *known)
{
    uint32_t kept[BLOCK + LINE];
    for (Py_ssize_t i = 0; i < n;) {
        int size = n - i < BLOCK ? (int)(n - i) : BLOCK;
        int whole = size < LINE ? size : size - size % LINE;
        uint32_t top = (uint32_t)known->high;
        Py_ssize_t zeros = known->zeros;
        int m = (size < LINE ? squeeze : vector)(x + i, whole, kept, known);
        if (known->high >= INFINITY_BITS || known->deep >= (SIGN | INFINITY_BITS)) {
            memset(scratch, 0, BINS * sizeof *scratch);
            return 0;
        }
        tally(kept, m, scratch);
        scratch[top >> 16] += (uint32_t)(whole - m - (known->zeros - zeros));
        i += whole;
    }
    /* only keys that can occur: from the smallest magnitude to the largest of either sign */
    counts[0] += known->zeros;
    if (known->high > 0)
        merge(scratch, counts, (known->tiny + 1) >> 16, (uint32_t)known->high >> 16);
    if (known->low < 0)
        merge(scratch, counts, (uint32_t)known->low >> 16, known->deep >> 16);
    return 1;
}

static double as_double(uint32_t bits)
{
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

static double minimum(const struct known *known)
{
    if (known->deep >= SIGN)
        return as_double(known->deep);
    return known->zeros ? 0.0 : as_double(known->tiny + 1);
}

static double maximum(const struct known *known)
{
    return as_double((uint32_t)(known->high >= 0 ? known->high : known->low));
}

static PyObject *count(PyObject *module, PyObject *args)
{
    Py_buffer x, scratch, counts;
    struct known known = {INT32_MIN, INT32_MAX, 0, UINT32_MAX, 0};
    Py_ssize_t size;
    int finite, widest;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*w*w*i", &x, &scratch, &counts, &widest))
        return NULL;
    size = x.len;
    if (size == 0 || size % 4 || (uint64_t)size / 4 > UINT32_MAX || scratch.len != BINS * 4 ||
        counts.len != BINS * 8 || widest < 0 || widest > supported()) {
        PyErr_SetString(PyExc_ValueError, "buffers of the wrong size, or instructions that this machine lacks");
        PyBuffer_Release(&x), PyBuffer_Release(&scratch), PyBuffer_Release(&counts);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    finite = count_all(x.buf, size / 4, scratch.buf, counts.buf, squeezes[widest], &known);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&x), PyBuffer_Release(&scratch), PyBuffer_Release(&counts);
    if (!finite)
        Py_RETURN_NONE;
    return Py_BuildValue("(dd)", minimum(&known), maximum(&known));
}

static PyMethodDef methods[] = {
    {"count", count, METH_VARARGS,
     "count(x, scratch, counts, widest): add the upper 16 bits of the float32 in x (not empty, less than 2**32) to\n"
     "counts (int64[65536]); scratch is uint32[65536], zero before and after. Of WIDEST kinds of vectors the\n"
     "`widest` is taken, 0 is none. Returns (minimum, maximum), or None for NaN or Inf."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_count", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__count(void)
{
    PyObject *module = PyModule_Create(&definition);
    prepare();
    if (module != NULL && PyModule_AddIntConstant(module, "WIDEST", supported()) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
