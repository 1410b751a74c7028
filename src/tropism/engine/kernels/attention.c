/* Causal attention on packed sequences, forward and backward, and one step of decoding against a cache.
 *
 * Shapes. N tokens of all sequences one after another; H query heads share KV key heads (H a multiple of KV);
 * D numbers a head. q, dout [N, H, D], k, v [N, KV, D]: strides (token, head) in elements, D contiguous.
 * out, dq [N, H, D] and dk, dv [N, KV, D] are contiguous; lse [H, N] is fp32. `starts` [sequences + 1] are the offsets
 * of the sequences, from 0 to N. `_bf16` takes bfloat16, `_f32` floats; all arithmetic is fp32, and probabilities are
 * never rounded to bf16.
 *
 * Position i of a sequence sees j <= i and, with a window > 0, only i - j < window. Scores are scale * q.k, then
 * softcap * tanh(scores / softcap) where softcap > 0, then masked.
 *
 * Sources: queries go by blocks against blocks of keys, with a running maximum (Rabe & Staats 2021, "Self-attention
 * does not need O(n^2) memory"); the backward recomputes probabilities from the log-sum-exp and uses
 * rowsum(dP * P) = dout.out (Dao et al. 2022, "FlashAttention", section 3 and appendix B; Dao 2023).
 *
 * One thread works on one (sequence, key head), so that results do not depend on the number of threads. A number in q,
 * k, v or dout that is not finite, or scores that overflow, make everything of that sequence and key head NaN: the
 * compiler may assume finite numbers (-ffast-math), so NaN is looked for in the bits and never left to arithmetic.
 *
 * Memory: per thread, keys, values and their transposes of one head of the longest sequence, in fp32, and one block of
 * scores. Every function returns 0, or 1 where memory is out (nothing is promised of the outputs then).
 *
 * Left out: attention between sequences, masks other than these, dropout, biases, attention sinks. */

#include <math.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "vectors.h"

#define STEP (LANES > ROWS ? LANES : ROWS) /* columns of a block of scores are computed in whole steps */
#define QUERIES 32                         /* rows of a block of scores: a multiple of STEP */
#define KEYS 128                           /* columns of a block of scores: a multiple of STEP */

typedef struct {
    long heads, kv_heads, dim, width; /* width: dim rounded up to whole vectors */
    long window;
    float scale, softcap;
    int bf16;
} Shape;

typedef struct {
    const void *data;
    long token, head;
} View;

typedef struct {
    Shape shape;
    View q, k, v, dout;
    long tokens; /* of all sequences */
    void *out, *dq, *dk, *dv; /* dq is NULL in the forward */
    float *lse;
} Call;

/* Rows [first, first + count) of one head as [padded, width] floats. 1 if a number is not finite. */
static int load_head(const Shape *shape, View view, long head, long first, long count, long padded, float *to) {
    const char *from = (const char *)view.data + (first * view.token + head * view.head) * (shape->bf16 ? 2 : 4);
    return load_rows(from, shape->bf16, view.token, count, padded, shape->dim, to);
}

/* Rows [first, first + count) of one head of a contiguous [N, heads, D] become NaN. */
static void nan_head(const Shape *shape, void *to, long heads, long head, long first, long count) {
    for (long i = first; i < first + count; i++)
        store_nans(shape->bf16, shape->dim, (char *)to + (i * heads + head) * shape->dim * (shape->bf16 ? 2 : 4));
}

/* ---- products ---- */

/* Scores of ROWS queries [ROWS, width] against columns of a transposed block of keys, into rows of KEYS columns. */
static void scores(const Shape *shape, const float *q, const float *keys, long columns, float *to) {
    tiles(columns / LANES, 0, shape->dim, q, shape->width, 1, keys, KEYS, to, KEYS);
}

/* sums [ROWS, width] += weights [ROWS, KEYS columns][:, :depth] @ rows [depth, width] */
static void weighted(const Shape *shape, const float *weights, long depth, const float *rows, float *sums) {
    tiles(shape->width / LANES, 1, depth, weights, KEYS, 1, rows, shape->width, sums, shape->width);
}

/* The same with the weights transposed: sums[r] += over i of weights[i, r] * rows[i]. */
static void weighted_across(const Shape *shape, const float *weights, long depth, const float *rows, float *sums) {
    tiles(shape->width / LANES, 1, depth, weights, 1, KEYS, rows, shape->width, sums, shape->width);
}

/* ---- what a query sees ---- */

typedef struct {
    long from, to;
} Range;

/* Keys of position i. */
INLINE Range seen(const Shape *shape, long i) {
    return (Range){shape->window > 0 ? most(0, i - shape->window + 1) : 0, i + 1};
}

/* Columns of the block of keys at `block` that any of the rows [i, i + ROWS) of `length` sees, in whole steps. */
INLINE Range columns_of(const Shape *shape, long i, long length, long block) {
    long from = most(seen(shape, i).from - block, 0) / STEP * STEP;
    long to = least(up(most(least(i + ROWS, length) - block, 0), STEP), KEYS);
    return (Range){from, most(from, to)};
}

INLINE ivec within(long column, Range range) {
    ivec at = lanes() + (int32_t)column;
    return (at >= (int32_t)range.from) & (at < (int32_t)range.to);
}

/* ---- forward ---- */

typedef struct {
    float *k, *v, *k_across, *v_across, *q, *dout, *sums, *weights, *slopes, *dk, *dv;
} Scratch;

/* Scores of one row become e^(score - top), 0 where nothing is seen; top, total and sums so far follow. */
static void soften(const Shape *shape, Range columns, Range range, float *row, float *top, float *total, float *sums) {
    vec highest = all(LOWEST), sum = {0};
    for (long c = columns.from; c < columns.to; c += LANES) {
        vec score = chosen(within(c, range), capped(load(row + c), shape->scale, shape->softcap), all(LOWEST));
        store(row + c, score);
        highest = larger(highest, score);
    }
    float before = *top, now = largest_of(highest);
    if (now > before) {
        vec shrink = exp_of(all(before - now));
        *total *= shrink[0];
        for (long d = 0; d < shape->width && before > LOWEST; d += LANES) store(sums + d, load(sums + d) * shrink);
        *top = now;
    }
    vec against = all(*top);
    for (long c = columns.from; c < columns.to; c += LANES) {
        vec p = (vec)((ivec)exp_of(load(row + c) - against) & within(c, range));
        store(row + c, p);
        sum += p;
    }
    *total += sum_of(sum);
}

/* Queries [i, i + QUERIES) of one head, loaded in s->q: their weighted sums into s->sums, log-sum-exp into lse.
 * 1 if a score was too large for a float. */
static int forward_block(const Shape *shape, const Scratch *s, long i, long length, float *lse) {
    const long count = least(QUERIES, length - i);
    float top[QUERIES], total[QUERIES] = {0};
    for (long r = 0; r < QUERIES; r++) top[r] = LOWEST;
    memset(s->sums, 0, QUERIES * shape->width * sizeof(float));
    for (long block = seen(shape, i).from / KEYS * KEYS; block < i + count; block += KEYS)
        for (long r = 0; r < count; r += ROWS) {
            const Range columns = columns_of(shape, i + r, length, block);
            if (columns.from == columns.to) continue;
            float *weights = s->weights, *sums = s->sums + r * shape->width;
            const float *q = s->q + r * shape->width, *keys = s->k_across + block * shape->width + columns.from;
            scores(shape, q, keys, columns.to - columns.from, weights + columns.from);
            for (long n = r; n < r + ROWS; n++) {
                const Range range = n < count ? seen(shape, i + n) : (Range){0, 0};
                soften(shape, columns, (Range){range.from - block, range.to - block}, weights + (n - r) * KEYS,
                       top + n, total + n, s->sums + n * shape->width);
            }
            const long used = least(columns.to, i + r + ROWS - block) - columns.from;
            weighted(shape, weights + columns.from, used, s->v + (block + columns.from) * shape->width, sums);
        }
    int strange = 0;
    for (long r = 0; r < count; r++) {
        lse[r] = top[r] + logf(total[r]);
        strange |= !finite(lse[r]);
        for (long d = 0; d < shape->width; d += LANES) {
            float *at = s->sums + r * shape->width + d;
            store(at, load(at) / total[r]);
        }
    }
    return strange;
}

/* All queries of the sequence [start, start + length) that share a key head. */
static void forward_group(const Call *call, const Scratch *s, long start, long length, long kv_head) {
    const Shape *shape = &call->shape;
    const long group = shape->heads / shape->kv_heads, padded = up(length, STEP), size = shape->bf16 ? 2 : 4;
    int strange = load_head(shape, call->k, kv_head, start, length, padded, s->k) |
                  load_head(shape, call->v, kv_head, start, length, padded, s->v);
    transpose(s->k, shape->width, padded, KEYS, s->k_across);
    for (long h = kv_head * group; h < (kv_head + 1) * group; h++)
        for (long i = 0; i < length; i += QUERIES) {
            const long count = least(QUERIES, length - i);
            strange |= load_head(shape, call->q, h, start + i, count, QUERIES, s->q);
            strange |= forward_block(shape, s, i, length, call->lse + h * call->tokens + start + i);
            for (long r = 0; r < count; r++)
                store_row(s->sums + r * shape->width, 1.0f, shape->dim, shape->bf16,
                          (char *)call->out + ((start + i + r) * shape->heads + h) * shape->dim * size);
        }
    if (!strange) return;
    for (long h = kv_head * group; h < (kv_head + 1) * group; h++) {
        store_nans(0, length, call->lse + h * call->tokens + start);
        nan_head(shape, call->out, shape->heads, h, start, length);
    }
}

/* ---- backward ---- */

/* Scores become probabilities, and dP becomes the gradient of the raw scores, for one row of a block. */
static void slope_row(const Shape *shape, Range columns, Range range, float lse, float delta, float *row,
                      float *slopes) {
    const float steepness = shape->softcap > 0 ? 1.0f / shape->softcap : 0.0f;
    for (long c = columns.from; c < columns.to; c += LANES) {
        vec score = capped(load(row + c), shape->scale, shape->softcap), bent = score * steepness;
        vec p = (vec)((ivec)exp_of(score - lse) & within(c, range));
        store(row + c, p);
        store(slopes + c, p * (load(slopes + c) - delta) * (1.0f - bent * bent) * shape->scale);
    }
}

/* One block of queries against one block of keys: dq into s->sums, dk and dv added up in s->dk and s->dv. */
static void backward_block(const Shape *shape, const Scratch *s, long i, long length, long block, const float *lse,
                           const float *delta) {
    const long count = least(QUERIES, length - i), width = shape->width;
    for (long r = 0; r < count; r += ROWS) {
        const Range columns = columns_of(shape, i + r, length, block);
        const long n = columns.to - columns.from, at = r * KEYS + columns.from;
        if (!n) continue;
        scores(shape, s->q + r * width, s->k_across + block * width + columns.from, n, s->weights + at);
        scores(shape, s->dout + r * width, s->v_across + block * width + columns.from, n, s->slopes + at);
        for (long m = r; m < r + ROWS; m++) {
            const Range range = m < count ? seen(shape, i + m) : (Range){0, 0};
            slope_row(shape, columns, (Range){range.from - block, range.to - block}, m < count ? lse[m] : 0.0f,
                      delta[m], s->weights + m * KEYS, s->slopes + m * KEYS);
        }
        const long used = least(columns.to, i + r + ROWS - block) - columns.from;
        weighted(shape, s->slopes + at, used, s->k + (block + columns.from) * width, s->sums + r * width);
    }
    /* The queries [from, to) that see a key of [j, j + ROWS): of these rows all columns here were computed above,
     * because columns go in steps of which ROWS is a part. */
    const long last = least(block + KEYS, least(i + count, length));
    for (long j = most(block, seen(shape, i).from / ROWS * ROWS); j < last; j += ROWS) {
        const long from = most(j - i, 0);
        const long to = shape->window > 0 ? least(count, j + ROWS - 1 + shape->window - i) : count;
        if (to <= from) continue;
        const long at = from * KEYS + j - block;
        weighted_across(shape, s->weights + at, to - from, s->dout + from * width, s->dv + j * width);
        weighted_across(shape, s->slopes + at, to - from, s->q + from * width, s->dk + j * width);
    }
}

/* Loads a block of queries with what belongs to it. 1 if a number is not finite. */
static int load_queries(const Call *call, const Scratch *s, long head, long first, long count, float *delta) {
    const Shape *shape = &call->shape;
    const View out = {call->out, shape->heads * shape->dim, shape->dim};
    int strange = load_head(shape, call->q, head, first, count, QUERIES, s->q) |
                  load_head(shape, call->dout, head, first, count, QUERIES, s->dout) |
                  load_head(shape, out, head, first, count, QUERIES, s->sums);
    for (long r = 0; r < QUERIES; r++) {
        vec sum = {0};
        for (long d = r * shape->width; d < (r + 1) * shape->width; d += LANES)
            sum += load(s->dout + d) * load(s->sums + d);
        delta[r] = sum_of(sum);
        if (r < count) strange |= !finite(call->lse[head * call->tokens + first + r]);
    }
    memset(s->sums, 0, QUERIES * shape->width * sizeof(float));
    return strange;
}

static void backward_group(const Call *call, const Scratch *s, long start, long length, long kv_head) {
    const Shape *shape = &call->shape;
    const long group = shape->heads / shape->kv_heads, padded = up(length, STEP), size = shape->bf16 ? 2 : 4;
    int strange = load_head(shape, call->k, kv_head, start, length, padded, s->k) |
                  load_head(shape, call->v, kv_head, start, length, padded, s->v);
    transpose(s->k, shape->width, padded, KEYS, s->k_across);
    transpose(s->v, shape->width, padded, KEYS, s->v_across);
    memset(s->dk, 0, padded * shape->width * sizeof(float));
    memset(s->dv, 0, padded * shape->width * sizeof(float));
    for (long h = kv_head * group; h < (kv_head + 1) * group; h++)
        for (long i = 0; i < length; i += QUERIES) {
            const long count = least(QUERIES, length - i);
            float delta[QUERIES];
            strange |= load_queries(call, s, h, start + i, count, delta);
            for (long block = seen(shape, i).from / KEYS * KEYS; block < i + count; block += KEYS)
                backward_block(shape, s, i, length, block, call->lse + h * call->tokens + start + i, delta);
            for (long r = 0; r < count; r++)
                store_row(s->sums + r * shape->width, 1.0f, shape->dim, shape->bf16,
                          (char *)call->dq + ((start + i + r) * shape->heads + h) * shape->dim * size);
        }
    for (long j = 0; j < length; j++) {
        const long at = ((start + j) * shape->kv_heads + kv_head) * shape->dim * size;
        store_row(s->dk + j * shape->width, 1.0f, shape->dim, shape->bf16, (char *)call->dk + at);
        store_row(s->dv + j * shape->width, 1.0f, shape->dim, shape->bf16, (char *)call->dv + at);
    }
    if (!strange) return;
    nan_head(shape, call->dk, shape->kv_heads, kv_head, start, length);
    nan_head(shape, call->dv, shape->kv_heads, kv_head, start, length);
    for (long h = kv_head * group; h < (kv_head + 1) * group; h++)
        nan_head(shape, call->dq, shape->heads, h, start, length);
}

/* ---- calls ---- */

/* Cuts one thread's memory into its arrays; with memory NULL, only says how many floats that takes. */
static long divide(const Call *call, long longest, float *memory, Scratch *s) {
    const long rows = up(longest, KEYS) * call->shape.width, block = QUERIES * call->shape.width;
    float **parts[] = {&s->k,       &s->v,    &s->k_across, &s->weights, &s->q,  &s->sums,
                       &s->v_across, &s->dout, &s->slopes,   &s->dk,      &s->dv};
    const long sizes[] = {rows, rows, rows, QUERIES * KEYS, block, block, rows, block, QUERIES * KEYS, rows, rows};
    long used = 0;
    for (int part = 0; part < (call->dq ? 11 : 6); part++) { /* the forward needs the first six */
        if (memory) *parts[part] = memory + used;
        used += up(sizes[part], 16);
    }
    return used;
}

static int run(const Call *call, int64_t sequences, const int64_t *starts, long threads) {
    const long kv_heads = call->shape.kv_heads, tasks = sequences * kv_heads;
    long longest = 0;
    for (long b = 0; b < sequences; b++) longest = most(longest, starts[b + 1] - starts[b]);
    if (!longest) return 0;
    Scratch sizes;
    const long each = divide(call, longest, NULL, &sizes);
    threads = most(1, least(threads, tasks));
    float *memory = aligned_alloc(64, (size_t)each * sizeof(float) * threads);
    if (!memory) return 1;
#pragma omp parallel num_threads((int)threads)
    {
        Scratch s;
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
        divide(call, longest, memory + thread * each, &s);
#pragma omp for schedule(dynamic, 1)
        for (long task = 0; task < tasks; task++) {
            const long start = starts[task / kv_heads], length = starts[task / kv_heads + 1] - start;
            if (call->dq)
                backward_group(call, &s, start, length, task % kv_heads);
            else
                forward_group(call, &s, start, length, task % kv_heads);
        }
    }
    free(memory);
    return 0;
}

/* What every function is given first. */
#define PROBLEM                                                                                                       \
    int64_t sequences, const int64_t *starts, int64_t heads, int64_t kv_heads, int64_t dim, float scale,              \
        int64_t window, float softcap, int64_t threads, const void *q, int64_t q_token, int64_t q_head,               \
        const void *k, int64_t k_token, int64_t k_head, const void *v, int64_t v_token, int64_t v_head

#define CALL(is_bf16)                                                                                                 \
    Call call = {.shape = {heads, kv_heads, dim, up(dim, LANES), window, scale, softcap, is_bf16},                    \
                 .q = {q, q_token, q_head},                                                                           \
                 .k = {k, k_token, k_head},                                                                           \
                 .v = {v, v_token, v_head},                                                                           \
                 .tokens = starts[sequences]}

#define FUNCTIONS(type, is_bf16)                                                                                      \
    EXPORT int tropism_attention_forward_##type(PROBLEM, void *out, float *lse) {                                     \
        CALL(is_bf16);                                                                                                \
        call.out = out, call.lse = lse;                                                                               \
        return run(&call, sequences, starts, threads);                                                                \
    }                                                                                                                 \
    EXPORT int tropism_attention_backward_##type(PROBLEM, const void *dout, int64_t dout_token,                       \
                                                 int64_t dout_head, const void *out, const float *lse,                \
                                                 void *dq, void *dk, void *dv) {                                      \
        CALL(is_bf16);                                                                                                \
        call.dout = (View){dout, dout_token, dout_head};                                                              \
        call.out = (void *)out, call.lse = (float *)lse; /* read only here */                                         \
        call.dq = dq, call.dk = dk, call.dv = dv;                                                                     \
        return run(&call, sequences, starts, threads);                                                                \
    }

FUNCTIONS(bf16, 1)
FUNCTIONS(f32, 0)
