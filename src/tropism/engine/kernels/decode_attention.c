/* One step of decoding: for each row one new query against the keys and values that its cache holds.
 *
 * Shapes. q [B, H, D]: strides (row, head); k, v [B, KV, capacity, D]: strides (row, head, position); strides in
 * elements, D contiguous, H a multiple of KV. lengths [B]: how many keys row b has, the new token's own included; they
 * lie at positions first[b] .. first[b] + lengths[b] - 1; first NULL is 0 for all. out [B, H, D] is contiguous. A row
 * of length 0 gets zeros. Scale, window and softcap as in attention.c, the query being the row's last position.
 * new_k, new_v [B, KV, D], where they are not NULL, are first put into the cache as the row's last key and value.
 *
 * `_bf16` takes bfloat16, `_f32` floats; all arithmetic is fp32. Numbers that are not finite in what a head reads make
 * its output NaN. Returns 0, or 1 where memory is out.
 *
 * The cache is read once a step and never copied; this is bound by its size, so queries that share a key head go
 * together. Left out: splitting one long row among threads, paged caches. */

#include <math.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "vectors.h"

#define CHUNK (2 * LANES)     /* numbers of a row that are read at a time, into two vectors */
#define WORTH_THREADS 1000000 /* multiplications below which threads cost more than they save */

typedef struct {
    const char *data;
    long row, head, position; /* strides in bytes */
} Cache;

typedef struct {
    long rows, heads, kv_heads, dim, window;
    float scale, softcap;
    int bf16;
    const int64_t *lengths, *first;
    const char *q;
    long q_row, q_head; /* in bytes */
    Cache k, v;
    const char *new_k, *new_v;
    long new_k_row, new_k_head, new_v_row, new_v_head; /* in bytes */
    char *out;
} Step;

/* CHUNK numbers as two vectors: of bf16 those at even and at odd places, of fp32 the first and the last LANES. */
INLINE void read_chunk(const char *p, int bf16, vec *a, vec *b) {
    if (bf16) {
        uvec pairs = *(const uvec_u *)p;
        *a = (vec)(pairs << 16);
        *b = (vec)(pairs & 0xffff0000u);
    } else {
        *a = load((const float *)p);
        *b = load((const float *)p + LANES);
    }
}

/* Where chunk c of a row begins: the last one ends where the row ends and may overlap the one before. */
INLINE long chunk_start(long c, long dim) { return least(c * CHUNK, most(dim - CHUNK, 0)); }

/* Reads chunk c of a row; a row shorter than a chunk is followed by zeros. */
INLINE void read_part(const char *row, long c, long dim, int bf16, vec *a, vec *b) {
    const long size = bf16 ? 2 : 4;
    if (dim >= CHUNK) {
        read_chunk(row + chunk_start(c, dim) * size, bf16, a, b);
    } else {
        char whole[4 * CHUNK] = {0};
        memcpy(whole, row, dim * size);
        read_chunk(whole, bf16, a, b);
    }
}

/* The query as chunks [chunks, 2, LANES], zero where a chunk repeats numbers of the one before. */
INLINE void read_query(const char *q, long dim, int bf16, float *to) {
    const long size = bf16 ? 2 : 4;
    for (long c = 0; c * CHUNK < dim; c++) {
        char part[4 * CHUNK] = {0};
        const long skip = c * CHUNK - chunk_start(c, dim), count = least(CHUNK - skip, dim - c * CHUNK);
        memcpy(part + skip * size, q + c * CHUNK * size, count * size);
        vec a, b;
        read_chunk(part, bf16, &a, &b);
        store(to + c * CHUNK, a);
        store(to + c * CHUNK + LANES, b);
    }
}

/* Scores of `count` keys into to, filled up to whole vectors with LOWEST; *top is the largest.
 * 1 if one is not finite. */
INLINE int score_keys(const Step *step, int bf16, long dim, const float *q, const char *keys, long count, float *to,
                      float *top) {
    const long chunks = (dim + CHUNK - 1) / CHUNK;
    vec highest = all(LOWEST);
    ivec strange = {0};
    for (long j = 0; j < count; j += LANES) {
        vec sums[LANES];
        for (int l = 0; l < LANES; l++) {
            const char *key = keys + least(j + l, count - 1) * step->k.position;
            vec a, b, sum = {0};
            for (long c = 0; c < chunks; c++) {
                read_part(key, c, dim, bf16, &a, &b);
                sum += a * load(q + c * CHUNK);
                sum += b * load(q + c * CHUNK + LANES);
            }
            sums[l] = sum;
        }
        const vec raw = sums_of(sums);
        strange |= not_finite(raw);
        vec score = capped(raw, step->scale, step->softcap);
        score = chosen(lanes() < (int32_t)least(count - j, LANES), score, all(LOWEST));
        store(to + j, score);
        highest = larger(highest, score);
    }
    *top = largest_of(highest);
    return any(strange);
}

/* Weights e^(score - top) in place; returns their sum. */
INLINE float weigh(float *scores, long count, float top) {
    vec total = {0};
    for (long j = 0; j < count; j += LANES) {
        vec p = exp_of(load(scores + j) - top);
        p = (vec)((ivec)p & (lanes() < (int32_t)least(count - j, LANES)));
        store(scores + j, p);
        total += p;
    }
    return sum_of(total);
}

/* Chunk c of the weighted sum of the values: two vectors as read_chunk gives them. */
INLINE void sum_values(const Step *step, int bf16, long dim, long c, const float *weights, const char *values,
                       long count, vec *a, vec *b) {
    vec x, y, a0 = {0}, b0 = {0}, a1 = {0}, b1 = {0};
    const long stride = step->v.position;
    long j = 0;
    for (; j + 2 <= count; j += 2) {
        read_part(values + j * stride, c, dim, bf16, &x, &y);
        a0 += weights[j] * x;
        b0 += weights[j] * y;
        read_part(values + (j + 1) * stride, c, dim, bf16, &x, &y);
        a1 += weights[j + 1] * x;
        b1 += weights[j + 1] * y;
    }
    if (j < count) {
        read_part(values + j * stride, c, dim, bf16, &x, &y);
        a0 += weights[j] * x;
        b0 += weights[j] * y;
    }
    *a = a0 + a1;
    *b = b0 + b1;
}

/* The new token's key and value of row b to where the cache keeps them. */
static void append(const Step *step, long b, long kv_head) {
    const long size = step->dim * (step->bf16 ? 2 : 4);
    const long at = (step->first ? step->first[b] : 0) + step->lengths[b] - 1;
    if (!step->new_k || step->lengths[b] <= 0) return;
    memcpy((char *)step->k.data + b * step->k.row + kv_head * step->k.head + at * step->k.position,
           step->new_k + b * step->new_k_row + kv_head * step->new_k_head, size);
    memcpy((char *)step->v.data + b * step->v.row + kv_head * step->v.head + at * step->v.position,
           step->new_v + b * step->new_v_row + kv_head * step->new_v_head, size);
}

/* All heads of row b that share a key head. `bf16` and `dim` are known where this is inlined. */
INLINE void decode_group(const Step *step, int bf16, long dim, long b, long kv_head, float *q, float *weights) {
    const long group = step->heads / step->kv_heads, size = bf16 ? 2 : 4, length = step->lengths[b];
    const long skipped = step->window > 0 ? most(0, length - step->window) : 0, count = length - skipped;
    const long begin = (step->first ? step->first[b] : 0) + skipped;
    const char *keys = step->k.data + b * step->k.row + kv_head * step->k.head + begin * step->k.position;
    const char *values = step->v.data + b * step->v.row + kv_head * step->v.head + begin * step->v.position;
    for (long h = kv_head * group; h < (kv_head + 1) * group; h++) {
        char *out = step->out + (b * step->heads + h) * dim * size;
        float top;
        if (count <= 0) {
            memset(out, 0, dim * size);
            continue;
        }
        read_query(step->q + b * step->q_row + h * step->q_head, dim, bf16, q);
        if (score_keys(step, bf16, dim, q, keys, count, weights, &top)) {
            store_nans(bf16, dim, out);
            continue;
        }
        const float total = weigh(weights, count, top);
        for (long c = 0; c * CHUNK < dim; c++) {
            float sums[CHUNK];
            vec x, y;
            sum_values(step, bf16, dim, c, weights, values, count, &x, &y);
            if (bf16) { /* back into the order of the row */
                store(sums, pick(x, y, (lanes() >> 1) + (odd_part(1) & LANES)));
                store(sums + LANES, pick(x, y, (lanes() >> 1) + LANES / 2 + (odd_part(1) & LANES)));
            } else {
                store(sums, x);
                store(sums + LANES, y);
            }
            store_row(sums, 1.0f / total, least(CHUNK, dim), bf16, out + chunk_start(c, dim) * size);
        }
    }
}

static void decode_bf16(const Step *step, long b, long kv_head, float *q, float *weights) {
    switch (step->dim) { /* the usual sizes, so that their loops are unrolled */
    case 32: decode_group(step, 1, 32, b, kv_head, q, weights); break;
    case 64: decode_group(step, 1, 64, b, kv_head, q, weights); break;
    case 128: decode_group(step, 1, 128, b, kv_head, q, weights); break;
    default: decode_group(step, 1, step->dim, b, kv_head, q, weights);
    }
}

static void decode_f32(const Step *step, long b, long kv_head, float *q, float *weights) {
    switch (step->dim) {
    case 32: decode_group(step, 0, 32, b, kv_head, q, weights); break;
    case 64: decode_group(step, 0, 64, b, kv_head, q, weights); break;
    case 128: decode_group(step, 0, 128, b, kv_head, q, weights); break;
    default: decode_group(step, 0, step->dim, b, kv_head, q, weights);
    }
}

static int run(const Step *step, long threads) {
    long longest = 0, keys = 0;
    for (long b = 0; b < step->rows; b++) {
        longest = most(longest, step->lengths[b]);
        keys += step->lengths[b];
    }
    const long tasks = step->rows * step->kv_heads, query = up(step->dim, CHUNK);
    const long each = query + up(most(longest, 1), 16);
    threads = keys * step->heads * step->dim < WORTH_THREADS ? 1 : most(1, least(threads, tasks));
    float *memory = aligned_alloc(64, (size_t)up(each, 16) * sizeof(float) * threads);
    if (!memory) return 1;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
        float *own = memory;
#ifdef _OPENMP
        own += omp_get_thread_num() * up(each, 16);
#endif
#pragma omp for schedule(dynamic, 8)
        for (long task = 0; task < tasks; task++) {
            const long b = task / step->kv_heads, kv_head = task % step->kv_heads;
            append(step, b, kv_head);
            (step->bf16 ? decode_bf16 : decode_f32)(step, b, kv_head, own, own + query);
        }
    }
    free(memory);
    return 0;
}

#define FUNCTION(type, is_bf16, size)                                                                                 \
    EXPORT int tropism_decode_attention_##type(                                                                       \
        int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim, float scale, int64_t window, float softcap,       \
        int64_t threads, const int64_t *lengths, const int64_t *first, const void *q, int64_t q_row,                  \
        int64_t q_head, const void *k, int64_t k_row, int64_t k_head, int64_t k_position, const void *v,              \
        int64_t v_row, int64_t v_head, int64_t v_position, const void *new_k, int64_t new_k_row, int64_t new_k_head,  \
        const void *new_v, int64_t new_v_row, int64_t new_v_head, void *out) {                                        \
        const Step step = {rows, heads, kv_heads, dim, window, scale, softcap, is_bf16, lengths, first, q,            \
                           q_row * size, q_head * size,                                                               \
                           {k, k_row * size, k_head * size, k_position * size},                                       \
                           {v, v_row * size, v_head * size, v_position * size},                                       \
                           new_k, new_v, new_k_row * size, new_k_head * size, new_v_row * size, new_v_head * size,    \
                           out};                                                                                      \
        return run(&step, threads);                                                                                   \
    }

FUNCTION(bf16, 1, 2)
FUNCTION(f32, 0, 4)
