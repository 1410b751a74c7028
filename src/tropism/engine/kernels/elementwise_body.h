/* Included by elementwise.c once per element type: ELEMENT in memory, SUFFIX in names. Strides are in elements; the last
 * dimension of every tensor is contiguous. Functions that return int return 0 where all is well. */

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(tropism_##name, SUFFIX)
#define LOAD JOIN(load, SUFFIX)
#define STORE JOIN(store, SUFFIX)
#define ROUND JOIN(round, SUFFIX)

/* ---- RMSNorm: y = x / sqrt(mean x^2 + eps) * (weight + offset) -------------------------------------------------- */

/* x [n, h] with row stride, weight [h] -> y [n, h], rstd [n] (may be NULL). `wide`: multiply in float32 and round once
 * (Gemma, OLMo 2); else the normalised row is rounded before the product (Llama). */
void NAME(rms_norm)(const ELEMENT *restrict x, int64_t stride, const ELEMENT *restrict weight, float offset, float eps,
                    int wide, int64_t n, int64_t h, ELEMENT *restrict y, float *restrict rstd, int threads) {
#pragma omp parallel for num_threads(team(n * h, threads))
    for (int64_t i = 0; i < n; i++) {
        const ELEMENT *row = x + i * stride;
        ELEMENT *out = y + i * h;
        float square = 0.0f;
        for (int64_t j = 0; j < h; j++) {
            float v = LOAD(row + j);
            square += v * v;
        }
        float r = 1.0f / __builtin_sqrtf(square / (float)h + eps);
        if (rstd) rstd[i] = r;
        if (wide)
            for (int64_t j = 0; j < h; j++) STORE(out + j, LOAD(row + j) * r * (LOAD(weight + j) + offset));
        else
            for (int64_t j = 0; j < h; j++) STORE(out + j, ROUND(LOAD(row + j) * r) * (LOAD(weight + j) + offset));
    }
}

/* dy [n, h] with row stride -> dx [n, h]; dweight [h] float32, summed over ROW_BLOCKS blocks of rows in their order. */
int NAME(rms_norm_backward)(const ELEMENT *restrict dy, int64_t dy_stride, const ELEMENT *restrict x, int64_t stride,
                            const ELEMENT *restrict weight, float offset, const float *restrict rstd, int64_t n,
                            int64_t h, ELEMENT *restrict dx, float *restrict dweight, int threads) {
    int64_t blocks = n < ROW_BLOCKS ? n : ROW_BLOCKS;
    float *partial = calloc((size_t)(blocks * h) + 1, sizeof(float));
    if (!partial) return OUT_OF_MEMORY;
#pragma omp parallel for num_threads(team(n * h, threads))
    for (int64_t b = 0; b < blocks; b++) {
        float *restrict sum = partial + b * h;
        for (int64_t i = b * n / blocks; i < (b + 1) * n / blocks; i++) {
            const ELEMENT *row = x + i * stride, *up = dy + i * dy_stride;
            ELEMENT *out = dx + i * h;
            float r = rstd[i], dot = 0.0f;
            for (int64_t j = 0; j < h; j++) {
                float normed = LOAD(row + j) * r, d = LOAD(up + j);
                sum[j] += d * normed;
                dot += d * (LOAD(weight + j) + offset) * normed;
            }
            float mean = dot / (float)h;
            for (int64_t j = 0; j < h; j++) {
                float normed = LOAD(row + j) * r;
                STORE(out + j, r * (LOAD(up + j) * (LOAD(weight + j) + offset) - normed * mean));
            }
        }
    }
    memset(dweight, 0, (size_t)h * sizeof(float));
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t j = 0; j < h; j++) dweight[j] += partial[b * h + j];
    free(partial);
    return 0;
}

/* ---- gated activation: y = act(gate) * up --------------------------------------------------------------------- */

static inline void NAME(gated_row)(int act, const ELEMENT *restrict gate, const ELEMENT *restrict up,
                                   ELEMENT *restrict y, int64_t f) {
    for (int64_t j = 0; j < f; j++) {
        float slope;
        STORE(y + j, activate(act, LOAD(gate + j), &slope) * LOAD(up + j));
    }
}

static inline void NAME(gated_back_row)(int act, const ELEMENT *restrict dy, const ELEMENT *restrict gate,
                                        const ELEMENT *restrict up, ELEMENT *restrict dgate, ELEMENT *restrict dup,
                                        int64_t f) {
    for (int64_t j = 0; j < f; j++) {
        float slope, d = LOAD(dy + j), a = activate(act, LOAD(gate + j), &slope);
        STORE(dgate + j, d * LOAD(up + j) * slope);
        STORE(dup + j, d * a);
    }
}

/* gate, up [n, f] with row strides -> y [n, f]. The activation is told apart outside the loops. */
void NAME(gated)(int act, const ELEMENT *gate, int64_t gate_stride, const ELEMENT *up, int64_t up_stride, int64_t n,
                 int64_t f, ELEMENT *y, int threads) {
#pragma omp parallel for num_threads(team(n * f, threads))
    for (int64_t i = 0; i < n; i++) {
        const ELEMENT *g = gate + i * gate_stride, *u = up + i * up_stride;
        if (act == SILU) NAME(gated_row)(SILU, g, u, y + i * f, f);
        else if (act == GELU_TANH) NAME(gated_row)(GELU_TANH, g, u, y + i * f, f);
        else NAME(gated_row)(GELU_ERF, g, u, y + i * f, f);
    }
}

/* dy [n, f] with row stride -> dgate, dup [n, f]. */
void NAME(gated_backward)(int act, const ELEMENT *dy, int64_t dy_stride, const ELEMENT *gate, int64_t gate_stride,
                          const ELEMENT *up, int64_t up_stride, int64_t n, int64_t f, ELEMENT *dgate, ELEMENT *dup,
                          int threads) {
#pragma omp parallel for num_threads(team(n * f, threads))
    for (int64_t i = 0; i < n; i++) {
        const ELEMENT *d = dy + i * dy_stride, *g = gate + i * gate_stride, *u = up + i * up_stride;
        ELEMENT *dg = dgate + i * f, *du = dup + i * f;
        if (act == SILU) NAME(gated_back_row)(SILU, d, g, u, dg, du, f);
        else if (act == GELU_TANH) NAME(gated_back_row)(GELU_TANH, d, g, u, dg, du, f);
        else NAME(gated_back_row)(GELU_ERF, d, g, u, dg, du, f);
    }
}

/* ---- rotary positions: pairs (j, j + r/2) of each head are turned by the token's angle ------------------------ */

/* x [n, heads, d] with strides, cos and sin [n, r] float32, r <= d and even, d <= MAX_HEAD -> out [n, heads, d] with
 * strides; out may be x. `back` turns the other way (the gradient). Beyond r elements pass unchanged. */
void NAME(rotary)(const ELEMENT *x, int64_t x_token, int64_t x_head, const float *cos, const float *sin, int64_t n,
                  int64_t heads, int64_t d, int64_t r, int back, ELEMENT *out, int64_t out_token, int64_t out_head,
                  int threads) {
    int64_t half = r / 2;
#pragma omp parallel for num_threads(team(n * heads * d, threads))
    for (int64_t i = 0; i < n; i++) {
        const float *restrict c = cos + i * r, *restrict s = sin + i * r;
        for (int64_t k = 0; k < heads; k++) {
            float row[MAX_HEAD]; /* a copy, so that out may be x */
            const ELEMENT *from = x + i * x_token + k * x_head;
            for (int64_t j = 0; j < d; j++) row[j] = LOAD(from + j);
            ELEMENT *to = out + i * out_token + k * out_head;
            /* a loop for each half: with both in one the compiler cannot tell that they do not overlap */
            if (back) {
                for (int64_t j = 0; j < half; j++) STORE(to + j, row[j] * c[j] + row[j + half] * s[j + half]);
                for (int64_t j = 0; j < half; j++) STORE(to + j + half, row[j + half] * c[j + half] - row[j] * s[j]);
            } else {
                for (int64_t j = 0; j < half; j++) STORE(to + j, row[j] * c[j] - row[j + half] * s[j]);
                for (int64_t j = 0; j < half; j++) STORE(to + j + half, row[j + half] * c[j + half] + row[j] * s[j + half]);
            }
            for (int64_t j = r; j < d; j++) STORE(to + j, row[j]);
        }
    }
}

/* ---- softmax over the vocabulary ------------------------------------------------------------------------------ */

/* The largest of `count` scaled logits, at least FLOOR. *bits becomes the largest of itself and their bit patterns without
 * sign: above NAN_FROM there was a NaN, which comparisons of floats may miss under -ffast-math. */
static inline float NAME(largest)(const ELEMENT *restrict row, int64_t count, float inv_temperature, int32_t *bits) {
    float m = FLOOR;
    int32_t seen = *bits;
    for (int64_t j = 0; j < count; j++) {
        float z = LOAD(row + j);
        int32_t pattern = (int32_t)(to_bits(z) & 0x7fffffffu);
        seen = pattern > seen ? pattern : seen;
        m = larger(z * inv_temperature, m);
    }
    *bits = seen;
    return m;
}

/* logits [n, v] with row stride, targets [n] -> of softmax(logits * inv_temperature), float32 [n]: logprob of the target,
 * entropy (nats), largest logprob, log-sum-exp. One pass over memory: the maximum runs along, sums are rescaled. */
int NAME(softmax_stats)(const ELEMENT *logits, int64_t stride, const int64_t *targets, float inv_temperature,
                        int64_t n, int64_t v, float *logprob, float *entropy, float *max_logprob, float *lse,
                        int threads) {
    if (!within(targets, n, v)) return OUT_OF_RANGE;
#pragma omp parallel for num_threads(team(n * v, threads))
    for (int64_t i = 0; i < n; i++) {
        const ELEMENT *row = logits + i * stride;
        float m = FLOOR;
        int32_t bits = 0;
        double mass = 0.0, first = 0.0; /* sums of e^(z - m) and of (z - m) e^(z - m) */
        for (int64_t start = 0; start < v; start += CHUNK) {
            int64_t count = v - start < CHUNK ? v - start : CHUNK;
            float top = NAME(largest)(row + start, count, inv_temperature, &bits);
            if (top > m) {
                double shift = (double)top - m, scale = exp_negative(-(float)shift);
                first = (first - shift * mass) * scale;
                mass *= scale;
                if (mass == 0.0) first = 0.0;
                m = top;
            }
            float e_sum = 0.0f, de_sum = 0.0f;
            for (int64_t j = 0; j < count; j++) {
                float d = larger(LOAD(row + start + j) * inv_temperature - m, -100.0f);
                float e = exp_negative(d);
                e_sum += e;
                de_sum += d * e;
            }
            mass += e_sum;
            first += de_sum;
        }
        float z = LOAD(row + targets[i]) * inv_temperature;
        float log_mass = (float)__builtin_log(mass);
        int none = no_distribution(m, bits);
        lse[i] = none ? not_a_number() : m + log_mass;
        max_logprob[i] = none ? not_a_number() : -log_mass;
        entropy[i] = none ? not_a_number() : log_mass - (float)(first / mass);
        logprob[i] = none ? not_a_number() : z <= FLOOR ? minus_infinity() : z - m - log_mass;
    }
    return 0;
}

/* The gradient over the logits, written into them: with p the distribution and H its entropy,
 * d = inv_temperature (g_logprob (onehot - p) - g_entropy p (log p + H)). */
int NAME(softmax_stats_backward)(ELEMENT *logits, int64_t stride, const int64_t *targets, float inv_temperature,
                                 const float *lse, const float *entropy, const float *g_logprob,
                                 const float *g_entropy, int64_t n, int64_t v, int threads) {
    if (!within(targets, n, v)) return OUT_OF_RANGE;
#pragma omp parallel for num_threads(team(n * v, threads))
    for (int64_t i = 0; i < n; i++) {
        ELEMENT *row = logits + i * stride;
        float base = lse[i], h = entropy[i], gl = g_logprob[i] * inv_temperature, gh = g_entropy[i] * inv_temperature;
        float at = smaller(larger(LOAD(row + targets[i]) * inv_temperature - base, -100.0f), 0.0f);
        float at_target = gl - exp_negative(at) * (gl + gh * (at + h));
        for (int64_t j = 0; j < v; j++) {
            float l = smaller(larger(LOAD(row + j) * inv_temperature - base, -100.0f), 0.0f);
            STORE(row + j, -exp_negative(l) * (gl + gh * (l + h)));
        }
        STORE(row + targets[i], at_target);
    }
    return 0;
}

/* ---- sampling ------------------------------------------------------------------------------------------------- */

/* Goes along `weights` until the running sum passes `target`; returns whether it did. `place` is then where (`offset` on
 * top), else the last place of positive weight so far; `ahead` is the sum before that place. */
static inline int NAME(passes)(const float *weights, int64_t count, int64_t offset, double target, double *sum,
                               double *ahead, int64_t *place) {
    for (int64_t j = 0; j < count; j++) {
        if (weights[j] > 0.0f) {
            *place = offset + j;
            *ahead = *sum;
            *sum += weights[j];
            if (*sum > target) return 1;
        }
    }
    return 0;
}

/* The token of one row at `draw` in [0, 1): first the block of the inverse CDF, then the place in it, where rounding
 * can point past neither. `greedy` takes the first of the largest instead. */
static void NAME(sample_row)(const ELEMENT *row, int64_t v, float inv_temperature, int greedy, double draw,
                             int64_t *token, float *logprob) {
    float sums[SUMS], tops[SUMS], weights[CHUNK], m = FLOOR;
    int64_t block = 64, chosen = 0, place = 0;
    int32_t bits = 0;
    while (block * SUMS < v) block *= 2;
    int64_t blocks = (v + block - 1) / block;
    for (int64_t b = 0; b < blocks; b++) {
        const ELEMENT *from = row + b * block;
        int64_t count = v - b * block < block ? v - b * block : block;
        float top = NAME(largest)(from, count, inv_temperature, &bits), sum = 0.0f;
        for (int64_t j = 0; j < count; j++) sum += exp_negative(LOAD(from + j) * inv_temperature - top);
        tops[b] = top;
        sums[b] = sum;
        m = larger(top, m);
    }
    for (int64_t b = 0; b < blocks; b++) sums[b] *= exp_negative(tops[b] - m);
    double total = 0.0, sum = 0.0, ahead = 0.0;
    for (int64_t b = 0; b < blocks; b++) total += sums[b];

    if (greedy) {
        while (chosen + 1 < blocks && tops[chosen] < m) chosen++;
        place = chosen * block;
        while (place + 1 < v && LOAD(row + place) < m) place++;
    } else {
        NAME(passes)(sums, blocks, 0, draw * total, &sum, &ahead, &chosen);
        int64_t end = (chosen + 1) * block < v ? (chosen + 1) * block : v;
        place = chosen * block;
        sum = ahead;
        for (int64_t start = place; start < end; start += CHUNK) {
            int64_t count = end - start < CHUNK ? end - start : CHUNK;
            for (int64_t j = 0; j < count; j++) weights[j] = exp_negative(LOAD(row + start + j) * inv_temperature - m);
            if (NAME(passes)(weights, count, start, draw * total, &sum, &ahead, &place)) break;
        }
    }
    *token = place;
    float logged = LOAD(row + place) * inv_temperature - m - (float)__builtin_log(total);
    *logprob = no_distribution(m, bits) ? not_a_number() : logged;
}

/* logits [n, v] with row stride, draws [n] in [0, 1) -> tokens [n], logprobs [n] float32 of
 * softmax(logits * inv_temperature). */
void NAME(sample)(const ELEMENT *logits, int64_t stride, const double *draws, float inv_temperature, int greedy,
                  int64_t n, int64_t v, int64_t *tokens, float *logprobs, int threads) {
#pragma omp parallel for num_threads(team(n * v, threads))
    for (int64_t i = 0; i < n; i++)
        NAME(sample_row)(logits + i * stride, v, inv_temperature, greedy, draws[i], tokens + i, logprobs + i);
}

#undef JOIN_
#undef JOIN
#undef NAME
#undef LOAD
#undef STORE
#undef ROUND
