/* Kernels that read each element once or twice: RMSNorm, gated activations, rotary positions, statistics of a softmax
 * over the vocabulary with their gradient, and sampling. elementwise_body.h has the loops, once for float32 and once for
 * bfloat16 in memory; arithmetic is float32 throughout, long sums are float64.
 *
 * Built with -ffast-math, so no result may rest on the arithmetic of infinities: logits are kept above FLOOR, and what
 * is not a number is seen and written as bits. Results are the same for any number of threads: rows are independent, and where
 * rows are summed the blocks are fixed by the shape.
 *
 * A parallel region has either one thread or all `threads`: in between, libgomp would end threads and start them again.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#define FLOOR (-1e30f)    /* stands for a logit of minus infinity */
#define CEILING 3.4e38f   /* from here on a logit counts as infinite */
#define NAN_FROM 0x7f800000
#define ROW_BLOCKS 32     /* partial sums of a gradient over rows */
#define SUMS 256         /* partial sums of a row of probabilities */
#define CHUNK 512         /* elements of a row that stay in the first-level cache between two passes */
#define MAX_HEAD 1024     /* width of a head */
#define PARALLEL_FROM 65536 /* elements below which starting threads costs more than it saves */

enum { OUT_OF_MEMORY = 1, OUT_OF_RANGE = 2 };
enum { SILU = 0, GELU_TANH = 1, GELU_ERF = 2 };

static inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float load_f32(const float *p) { return *p; }
static inline void store_f32(float *p, float v) { *p = v; }
static inline float load_bf16(const uint16_t *p) { return from_bits((uint32_t)*p << 16); }

/* Round to nearest even; a NaN stays one. */
static inline void store_bf16(uint16_t *p, float v) {
    uint32_t bits = to_bits(v);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    *p = (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

static inline float round_f32(float v) { return v; }
static inline float round_bf16(float v) {
    uint16_t kept;
    store_bf16(&kept, v);
    return load_bf16(&kept);
}

static inline float not_a_number(void) { return from_bits(0x7fc00000u); }
static inline float minus_infinity(void) { return from_bits(0xff800000u); }

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

static inline float smaller(float a, float b) { return a < b ? a : b; }
static inline float larger(float a, float b) { return a > b ? a : b; }

/* e^x for x <= 0, relative error below 2e-7; 0 below -87.7, where the exponent's bits come out as 0. x = n ln 2 + r with
 * |r| <= ln(2)/2; the polynomial is a Chebyshev fit of (e^r - 1 - r) / r^2. No branch, so that loops vectorise. */
static inline float exp_negative(float x) {
    float kept = larger(x, -88.0f);
    int32_t n = (int32_t)(kept * 1.44269504f - 0.5f);
    float whole = (float)n;
    float r = FMA(whole, -0.693359375f, kept);
    r = FMA(whole, 2.12194440e-4f, r);
    float p = 1.393365033e-3f;
    p = FMA(p, r, 8.363181545e-3f);
    p = FMA(p, r, 4.166646493e-2f);
    p = FMA(p, r, 1.666657697e-1f);
    p = FMA(p, r, 5.000000013e-1f);
    p = FMA(p * r, r, r) + 1.0f;
    return p * from_bits((uint32_t)(n + 127) << 23);
}

/* 1 / (1 + e^-x), and its derivative in *slope without the cancellation of 1 - sigmoid. */
static inline float sigmoid(float x, float *slope) {
    float e = exp_negative(-__builtin_fabsf(x));
    float larger_half = 1.0f / (1.0f + e);
    *slope = e * larger_half * larger_half;
    return (x < 0.0f ? e : 1.0f) * larger_half;
}

/* The normal distribution function and its density at x; absolute error below 2e-7 (Abramowitz and Stegun 7.1.26). */
static inline float normal_cdf(float x, float *density) {
    float a = __builtin_fabsf(x) * 0.70710678f;
    float e = exp_negative(-a * a);
    float t = 1.0f / (1.0f + 0.3275911f * a);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float tail = 0.5f * p * t * e;
    *density = 0.39894228f * e;
    float rest = 1.0f - tail;
    return x < 0.0f ? tail : rest;
}

/* act(x), and act'(x) in *slope. */
static inline float activate(int act, float x, float *slope) {
    float steep;
    if (act == SILU) {
        float s = sigmoid(x, &steep);
        *slope = s + x * steep;
        return x * s;
    }
    if (act == GELU_TANH) { /* x/2 (1 + tanh u) = x sigmoid(2u); beyond 12 the sigmoid is 0 or 1 to the last bit */
        float c = smaller(larger(x, -12.0f), 12.0f);
        float s = sigmoid(1.595769122f * c * (1.0f + 0.044715f * c * c), &steep);
        *slope = s + c * steep * 1.595769122f * (1.0f + 0.134145f * c * c);
        return x * s;
    }
    float density, cdf = normal_cdf(x, &density);
    *slope = cdf + x * density;
    return x * cdf;
}

/* How many threads a parallel region of `wanted` gets: 1 where the library was built without OpenMP. */
int tropism_team(int wanted) {
    int got = 1;
#ifdef _OPENMP
#pragma omp parallel num_threads(wanted)
    {
#pragma omp single
        got = omp_get_num_threads();
    }
#else
    (void)wanted;
#endif
    return got;
}

static inline int team(int64_t elements, int threads) { return elements < PARALLEL_FROM ? 1 : threads; }

/* Whether a row is no distribution: not one finite logit, one of plus infinity, or a NaN. */
static inline int no_distribution(float largest, int32_t bits) {
    return largest <= FLOOR || largest >= CEILING || bits > NAN_FROM;
}

static int within(const int64_t *targets, int64_t n, int64_t v) {
    for (int64_t i = 0; i < n; i++)
        if (targets[i] < 0 || targets[i] >= v) return 0;
    return 1;
}

#define SUFFIX f32
#define ELEMENT float
#include "elementwise_body.h"
#undef SUFFIX
#undef ELEMENT

#define SUFFIX bf16
#define ELEMENT uint16_t
#include "elementwise_body.h"
