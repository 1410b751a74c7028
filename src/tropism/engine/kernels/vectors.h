/* Vectors of floats for the kernels: arithmetic, exponentials, rows of either type in and out, products.
 *
 * Vector extensions of gcc and clang; LANES follows what the compiler was told to build for. Instructions of one CPU
 * are used only where gcc does not find them by itself, beside a twin that does without.
 * Nothing here relies on numbers that are not finite (-ffast-math assumes there are none); where they matter they are
 * looked for in the bits. */

#ifndef TROPISM_VECTORS_H
#define TROPISM_VECTORS_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

/* LANES floats are one vector; ROWS x STRIPS vectors are the sums that a product keeps in registers. */
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#elif defined(__AVX__)
#define LANES 8
#define ROWS 4
#elif defined(__aarch64__)
#define LANES 4
#define ROWS 8
#else
#define LANES 4
#define ROWS 4
#endif
#define STRIPS 3
#define LOWEST -1e30f /* below every score, and finite */

/* The value of a vector is computed before anything that follows uses it. */
#if defined(__clang__) || !defined(__GNUC__)
#define KEEP_ORDER(x) ((void)0)
#elif defined(__AVX512F__)
#define KEEP_ORDER(x) __asm__("" : "+v"(x))
#elif defined(__x86_64__)
#define KEEP_ORDER(x) __asm__("" : "+x"(x))
#elif defined(__aarch64__)
#define KEEP_ORDER(x) __asm__("" : "+w"(x))
#else
#define KEEP_ORDER(x) __asm__("" : "+m"(x))
#endif

/* The next loop goes over registers and leaves no loop behind. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef float vec_u __attribute__((vector_size(4 * LANES), may_alias, aligned(2)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES), may_alias));
typedef uint32_t uvec_u __attribute__((vector_size(4 * LANES), may_alias, aligned(2)));
typedef uint16_t hvec_u __attribute__((vector_size(2 * LANES), may_alias, aligned(2)));

INLINE vec load(const float *p) { return *(const vec_u *)p; }
INLINE void store(float *p, vec x) { *(vec_u *)p = x; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec chosen(ivec where, vec a, vec b) { return (vec)(((ivec)a & where) | ((ivec)b & ~where)); }
#ifdef __AVX512F__ /* the same in one instruction, which gcc does not find */
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE uvec halves(const void *p) { return (uvec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i_u *)p)); }
#else
INLINE vec larger(vec a, vec b) { return chosen(a > b, a, b); }
INLINE vec smaller(vec a, vec b) { return chosen(a < b, a, b); }
INLINE uvec halves(const void *p) { return __builtin_convertvector(*(const hvec_u *)p, uvec); }
#endif
INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }
INLINE long up(long n, long step) { return (n + step - 1) / step * step; }

INLINE ivec lanes(void) {
    ivec lane;
    UNROLL
    for (int l = 0; l < LANES; l++) lane[l] = l;
    return lane;
}

/* Of each lane: are its bits those of inf or NaN? */
INLINE ivec not_finite(vec x) { return ((uvec)x & 0x7f800000u) == 0x7f800000u; }

INLINE int any(ivec x) {
    int all_bits = 0;
    for (int l = 0; l < LANES; l++) all_bits |= x[l];
    return all_bits != 0;
}

/* Lane l of `a`, or lane l - LANES of `b`, for each l in `from`, which is a constant wherever this is called. */
INLINE vec pick(vec a, vec b, ivec from) {
#ifdef __clang__
    vec out;
    UNROLL
    for (int l = 0; l < LANES; l++) out[l] = from[l] < LANES ? a[from[l]] : b[from[l] - LANES];
    return out;
#else
    return __builtin_shuffle(a, b, from);
#endif
}

INLINE ivec odd_part(int width) { return (lanes() & width) != 0; }
INLINE ivec straight(int width) { return lanes() + (odd_part(width) & LANES); }
INLINE ivec crossed(int width) { return (lanes() ^ width) + (odd_part(width) & LANES); }

INLINE float sum_of(vec x) {
    for (int w = LANES / 2; w; w /= 2) x += pick(x, x, lanes() ^ w);
    return x[0];
}

INLINE float largest_of(vec x) {
    for (int w = LANES / 2; w; w /= 2) x = larger(x, pick(x, x, lanes() ^ w));
    return x[0];
}

/* Lane l of the result is the sum over the lanes of x[l]. */
INLINE vec sums_of(vec x[LANES]) {
    UNROLL
    for (int w = LANES / 2; w; w /= 2) {
        UNROLL
        for (int i = 0; i < w; i++) x[i] = pick(x[i], x[i + w], straight(w)) + pick(x[i], x[i + w], crossed(w));
    }
    return x[0];
}

/* e^x = power + power * rest, where power = 2^n and |rest| < 0.42; `half` is -0.5 for x <= 0, 0.5 for x >= 0. */
INLINE vec exponential(vec x, float half, vec *power) {
#ifdef __clang__
#pragma clang fp reassociate(off)
#endif
    ivec n = __builtin_convertvector(x * 1.44269504f + half, ivec);
    vec whole = __builtin_convertvector(n, vec);
    vec r = x - whole * 0.693359375f; /* exact: ten bits of ln 2 times an integer below 128 */
    KEEP_ORDER(r);                    /* else the compiler adds the rest of ln 2 to these ten bits beforehand */
    r += whole * 2.12194440e-4f;
    /* least squares for the relative error of e^r on |r| < 0.3475: 3e-9 */
    vec tail = 0.49999993f + r * (0.16666519f + r * (0.0416684f + r * (0.0083689f + r * 0.00138143f)));
    *power = (vec)((n + 127) << 23);
    return r + r * r * tail;
}

/* e^x for x <= 0 or little above, at least e^-87. */
INLINE vec exp_of(vec x) {
    vec power, rest = exponential(larger(x, all(-87.0f)), -0.5f, &power);
    return power + power * rest;
}

/* At most 1 in size, so that 1 - tanh^2 is never below 0: a reciprocal by approximation would let (e^2x - 1) / (e^2x + 1)
 * pass 1, and saturated units learned backwards. */
INLINE vec tanh_of(vec x) {
#ifdef __clang__
#pragma clang fp reassociate(off)
#endif
    ivec sign = (ivec)x & INT32_MIN;
    vec power, size = (vec)((ivec)x & INT32_MAX);
    vec rest = exponential(smaller(size, all(20.0f)) * 2.0f, 0.5f, &power);
    vec less = power - 1.0f;
    KEEP_ORDER(less); /* else the compiler adds 1 to what is small */
    vec grown = power * rest + less; /* e^2|x| - 1, accurate for small x too */
    ivec far = grown > 2.0f;         /* 1 - 2 / (e^2|x| + 1) there */
    vec part = chosen(far, all(2.0f), grown) / (grown + 2.0f);
    return (vec)((ivec)chosen(far, 1.0f - part, part) | sign);
}

/* Scaled scores, softly capped where softcap > 0. */
INLINE vec capped(vec raw, float scale, float softcap) {
    vec score = raw * scale;
    if (softcap > 0) score = tanh_of(score / softcap) * softcap;
    return score;
}

/* ---- reading and writing rows of either type ---- */

/* LANES numbers as floats; lanes of `strange` become other than 0 where a number is not finite. */
INLINE vec widened(const void *p, int bf16, ivec *strange) {
    uvec bits = bf16 ? halves(p) << 16 : *(const uvec_u *)p;
    *strange |= not_finite((vec)bits);
    return (vec)bits;
}

static inline uint32_t rounded(float x) { /* to the nearest bfloat16, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline int finite(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

/* `count` rows of `dim` numbers into [padded, width], zeros elsewhere; width is dim in whole vectors.
 * 1 if a number is not finite. */
static inline int load_rows(const void *data, int bf16, long stride, long count, long padded, long dim, float *to) {
    const long size = bf16 ? 2 : 4, whole = dim / LANES * LANES, width = up(dim, LANES);
    const char *from = (const char *)data;
    ivec strange = {0};
    for (long i = 0; i < count; i++, from += stride * size, to += width) {
        __builtin_prefetch((const void *)((uintptr_t)from + 8 * stride * size)); /* rows of a head lie far apart */
        for (long d = 0; d < whole; d += LANES) store(to + d, widened(from + d * size, bf16, &strange));
        if (whole < dim) {
            char rest[4 * LANES] = {0};
            memcpy(rest, from + whole * size, (dim - whole) * size);
            store(to + whole, widened(rest, bf16, &strange));
        }
    }
    memset(to, 0, (padded - count) * width * sizeof(float));
    return any(strange);
}

/* `count` numbers, scaled, as the type of the tensors. */
static inline void store_row(const float *from, float scale, long count, int bf16, void *to) {
    long d = 0;
    for (; d + LANES <= count; d += LANES) {
        vec x = load(from + d) * scale;
        if (bf16)
            *(hvec_u *)((uint16_t *)to + d) =
                __builtin_convertvector(((uvec)x + 0x7fff + ((uvec)x >> 16 & 1)) >> 16, hvec_u);
        else
            store((float *)to + d, x);
    }
    for (; d < count; d++)
        if (bf16)
            ((uint16_t *)to)[d] = (uint16_t)rounded(from[d] * scale);
        else
            ((float *)to)[d] = from[d] * scale;
}

static inline void store_nans(int bf16, long count, void *to) {
    const uint32_t nan = 0x7fc00000u;
    for (long d = 0; d < count; d++)
        if (bf16)
            ((uint16_t *)to)[d] = (uint16_t)(nan >> 16);
        else
            memcpy((float *)to + d, &nan, 4);
}

/* Rows [padded, width] into blocks [width, columns] of `columns` rows each; all three are multiples of
 * LANES. */
static inline void transpose(const float *rows, long width, long padded, long columns, float *to) {
    for (long i = 0; i < padded; i += LANES) {
        float *block = to + i / columns * columns * width + i % columns;
        for (long d = 0; d < width; d += LANES) {
            vec x[LANES], y[LANES];
            for (int l = 0; l < LANES; l++) x[l] = load(rows + (i + l) * width + d);
            UNROLL
            for (int w = 1; w < LANES; w *= 2) {
                UNROLL
                for (int l = 0; l < LANES; l++) {
                    vec low = x[l & ~w], high = x[l | w];
                    y[l] = l & w ? pick(low, high, (lanes() | w) + (odd_part(w) & LANES))
                                 : pick(low, high, (lanes() & ~w) + (odd_part(w) & LANES));
                }
                for (int l = 0; l < LANES; l++) x[l] = y[l];
            }
            for (int l = 0; l < LANES; l++) store(block + (d + l) * columns, x[l]);
        }
    }
}

/* sums[r, :] (+)= over k of left[r, k] * right[k, :] for ROWS rows and `strips` vectors. */
INLINE void tile(int strips, int add, long depth, const float *left, long left_row, long left_depth, const float *right,
                 long right_row, float *sums, long sums_row) {
    vec total[ROWS][STRIPS];
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int s = 0; s < strips; s++)
            total[r][s] = add ? load(sums + r * sums_row + s * LANES) : (vec){0};
    for (long k = 0; k < depth; k++) {
        vec x[STRIPS];
        UNROLL
        for (int s = 0; s < strips; s++) x[s] = load(right + k * right_row + s * LANES);
        UNROLL
        for (int r = 0; r < ROWS; r++)
            UNROLL
            for (int s = 0; s < strips; s++) total[r][s] += left[r * left_row + k * left_depth] * x[s];
    }
    UNROLL
    for (int r = 0; r < ROWS; r++)
        UNROLL
        for (int s = 0; s < strips; s++) store(sums + r * sums_row + s * LANES, total[r][s]);
}

/* tile() over any number of vectors; the strides of `left` are known where it is inlined. */
INLINE void tiles(long strips, int add, long depth, const float *left, long left_row, long left_depth,
                  const float *right, long right_row, float *sums, long sums_row) {
    while (strips) {
        long now = strips == 4 ? 2 : least(strips, STRIPS);
        if (now == 3)
            tile(3, add, depth, left, left_row, left_depth, right, right_row, sums, sums_row);
        else if (now == 2)
            tile(2, add, depth, left, left_row, left_depth, right, right_row, sums, sums_row);
        else
            tile(1, add, depth, left, left_row, left_depth, right, right_row, sums, sums_row);
        right += now * LANES;
        sums += now * LANES;
        strips -= now;
    }
}

#endif
