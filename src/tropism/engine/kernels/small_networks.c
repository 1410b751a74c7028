/* Small multilayer perceptrons of control agents: forward, sampling, and whole epochs of PPO on one thread.
 *
 * For such networks the calls cost more than the arithmetic, so an epoch of mini-batches (gather, forward, loss,
 * backward, clipping, Adam) is one call. The mathematics is that of objectives/policy.py and objectives/kl.py, against
 * which it is tested.
 *
 * Parameters of a network are one vector: by layer a matrix [up16(in), up16(out)], row by row, then a bias [up16(out)].
 * What pads stays zero: inputs are padded with zeros, so its gradients are zero, too.
 */

#include <math.h>
#include <stdlib.h>

#include "vectors.h"

#define PAD 16
#define MAX_LAYERS 8
#define HALF_LOG_2PI 0.91893853320467274f
enum { TANH = 0, RELU = 1 };
enum { GAUSSIAN = 0, CATEGORICAL = 1 };
enum { OUT_OF_MEMORY = 1, BAD_SHAPE = 2 };

typedef struct {
    long layers;                      /* matrices */
    long width[MAX_LAYERS + 1];       /* numbers that count */
    long wide[MAX_LAYERS + 1];        /* with their padding */
    long weight[MAX_LAYERS], bias[MAX_LAYERS]; /* places in the vector */
    long size;
    int activation;
} Net;

static int describe(Net *net, const int64_t *widths, int64_t layers, int activation) {
    if (layers < 1 || layers > MAX_LAYERS) return BAD_SHAPE;
    net->layers = layers;
    net->activation = activation;
    net->size = 0;
    for (long l = 0; l <= layers; l++) {
        net->width[l] = widths[l];
        net->wide[l] = up(widths[l], PAD);
    }
    for (long l = 0; l < layers; l++) {
        net->weight[l] = net->size;
        net->bias[l] = net->size + net->wide[l] * net->wide[l + 1];
        net->size = net->bias[l] + net->wide[l + 1];
    }
    return 0;
}

static float *room(size_t floats) {
    void *found = NULL;
    if (posix_memalign(&found, 64, (floats + PAD) * sizeof(float))) return NULL;
    return found;
}

static void activate(int activation, long count, float *x) {
    for (long i = 0; i < count; i += LANES)
        store(x + i, activation == TANH ? tanh_of(load(x + i)) : larger(load(x + i), (vec){0}));
}

/* d *= the activation's slope, told from its value y */
static void slope(int activation, long count, const float *y, float *d) {
    for (long i = 0; i < count; i += LANES) {
        vec value = load(y + i), grad = load(d + i);
        vec through = grad * (1.0f - value * value);
        if (activation == RELU) through = chosen(value > 0, grad, (vec){0});
        store(d + i, through);
    }
}

/* y[rows, wide] of every layer; y[0] is the input. `rows` is a multiple of ROWS. */
static void forward(const Net *net, const float *params, long rows, float *const *y) {
    for (long l = 0; l < net->layers; l++) {
        const long wide = net->wide[l + 1];
        const float *bias = params + net->bias[l];
        for (long r = 0; r < rows; r++) memcpy(y[l + 1] + r * wide, bias, wide * sizeof(float));
        for (long r = 0; r < rows; r += ROWS)
            tiles(wide / LANES, 1, net->width[l], y[l] + r * net->wide[l], net->wide[l], 1, params + net->weight[l],
                  wide, y[l + 1] + r * wide, wide);
        if (l + 1 < net->layers) activate(net->activation, rows * wide, y[l + 1]);
    }
}

/* Gradients of the parameters, written to `grad`; d[l] is the gradient at y[l], d[layers] is given and d[0] is made
 * where it is not NULL. `turned` has room for the largest matrix. */
static void backward(const Net *net, const float *params, long rows, float *const *y, float *const *d, float *turned,
                     float *grad) {
    for (long l = net->layers - 1; l >= 0; l--) {
        const long in = net->wide[l], out = net->wide[l + 1];
        float *weight = grad + net->weight[l], *bias = grad + net->bias[l];
        for (long k = 0; k < in; k += ROWS)
            tiles(out / LANES, 0, rows, y[l] + k, 1, in, d[l + 1], out, weight + k * out, out);
        memset(bias, 0, out * sizeof(float));
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < out; i += LANES) store(bias + i, load(bias + i) + load(d[l + 1] + r * out + i));
        if (!d[l]) continue;
        transpose(params + net->weight[l], out, in, in, turned); /* [out, in] */
        for (long r = 0; r < rows; r += ROWS)
            tiles(in / LANES, 0, net->width[l + 1], d[l + 1] + r * out, out, 1, turned, in, d[l] + r * in, in);
        if (l > 0) slope(net->activation, rows * in, y[l], d[l]);
    }
}

/* Space for the values (and gradients) of every layer at `rows` rows, all zero. */
static float *layers_room(const Net *net, long rows, float **y) {
    size_t floats = 0;
    for (long l = 0; l <= net->layers; l++) floats += rows * net->wide[l];
    float *all = room(floats), *next = all;
    if (!all) return NULL;
    memset(all, 0, floats * sizeof(float));
    for (long l = 0; l <= net->layers; l++) {
        y[l] = next;
        next += rows * net->wide[l];
    }
    return all;
}

static long largest_matrix(const Net *net) {
    long most_yet = 0;
    for (long l = 0; l < net->layers; l++) most_yet = most(most_yet, net->wide[l] * net->wide[l + 1]);
    return most_yet;
}

/* y [rows, out] = network(x [rows, in]) */
EXPORT int tropism_mlp_forward(const float *params, const int64_t *widths, int64_t layers, int activation, const float *x,
                               int64_t rows, float *y) {
    Net net;
    if (describe(&net, widths, layers, activation)) return BAD_SHAPE;
    const long block = least(up(rows, ROWS), 256), in = net.width[0], out = net.width[layers];
    float *at[MAX_LAYERS + 1], *space = layers_room(&net, block, at);
    if (!space) return OUT_OF_MEMORY;
    for (long start = 0; start < rows; start += block) {
        const long now = least(block, rows - start);
        for (long r = 0; r < now; r++)
            memcpy(at[0] + r * net.wide[0], x + (start + r) * in, in * sizeof(float));
        forward(&net, params, up(now, ROWS), at);
        for (long r = 0; r < now; r++)
            memcpy(y + (start + r) * out, at[layers] + r * net.wide[layers], out * sizeof(float));
    }
    free(space);
    return 0;
}

/* Softmax of `count` logits into p; the logarithm of their sum of exponentials comes back. */
static float softmax(const float *logits, long count, float *p) {
    float top = logits[0], sum = 0;
    for (long i = 1; i < count; i++) top = logits[i] > top ? logits[i] : top;
    for (long i = 0; i < count; i++) sum += p[i] = expf(logits[i] - top);
    for (long i = 0; i < count; i++) p[i] /= sum;
    return top + logf(sum);
}

static float gaussian_logprob(const float *mean, const float *log_std, const float *action, long count) {
    float logprob = 0;
    for (long i = 0; i < count; i++) {
        const float z = (action[i] - mean[i]) * expf(-log_std[i]);
        logprob -= 0.5f * z * z + log_std[i] + HALF_LOG_2PI;
    }
    return logprob;
}

/* Actions, log-probabilities and values of observations. The vector: actor, log deviations [up16(actions)] (GAUSSIAN
 * only), critic. `noise`: standard normal [rows, actions], or uniform [rows] (CATEGORICAL); NULL takes the mode. Actions
 * are floats; of a category its number. */
EXPORT int tropism_act(int kind, const float *params, const int64_t *actor_widths, int64_t actor_layers,
                       const int64_t *critic_widths, int64_t critic_layers, int activation, const float *x, int64_t rows,
                       const float *noise, float *actions, float *logprobs, float *values) {
    Net actor;
    if (describe(&actor, actor_widths, actor_layers, activation)) return BAD_SHAPE;
    const long n = actor.width[actor_layers];
    const float *log_std = params + actor.size;
    const float *critic = log_std + (kind == GAUSSIAN ? up(n, PAD) : 0);
    float *out = room(rows * n + n);
    if (!out) return OUT_OF_MEMORY;
    int status = tropism_mlp_forward(params, actor_widths, actor_layers, activation, x, rows, out);
    if (!status) status = tropism_mlp_forward(critic, critic_widths, critic_layers, activation, x, rows, values);
    for (long r = 0; r < rows && !status; r++) {
        const float *mean = out + r * n;
        if (kind == GAUSSIAN) {
            float *action = actions + r * n;
            for (long i = 0; i < n; i++) action[i] = mean[i] + (noise ? expf(log_std[i]) * noise[r * n + i] : 0);
            logprobs[r] = gaussian_logprob(mean, log_std, action, n);
        } else {
            float *p = out + rows * n;
            const float log_sum = softmax(mean, n, p);
            long best = 0;
            if (noise) {
                float left = noise[r];
                while (best < n - 1 && left >= p[best]) left -= p[best++];
            } else
                for (long i = 1; i < n; i++) best = mean[i] > mean[best] ? i : best;
            actions[r] = (float)best;
            logprobs[r] = mean[best] - log_sum;
        }
    }
    free(out);
    return status;
}

/* One step of Adam (Kingma & Ba 2015) with decoupled weight decay 0, after the gradient was scaled by `scale`. */
static void adam(long size, float *params, const float *grad, float scale, float *m, float *v, long step, float rate,
                 float beta1, float beta2, float eps) {
    const float correct1 = 1.0f / (1.0f - (float)pow(beta1, step));
    const float correct2 = 1.0f / (1.0f - (float)pow(beta2, step));
    const float by = rate * correct1, root = sqrtf(correct2);
    for (long i = 0; i < size; i++) {
        const float g = grad[i] * scale;
        m[i] += (g - m[i]) * (1.0f - beta1);
        v[i] += (g * g - v[i]) * (1.0f - beta2);
        params[i] -= by * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

typedef struct {
    double clip_range, value_coef, entropy_coef, kl_old_coef, max_grad_norm, learning_rate, beta1, beta2, eps, whiten;
} Settings;

enum { POLICY_LOSS, VALUE_LOSS, ENTROPY, KL_OLD, CLIPPED, RATIO, FARTHEST, GRAD_NORM, STATS };

/* What brings the advantages of `rows` rows to mean 0 and deviation 1 (that of a sample, n - 1): (a - mean) * scale. One
 * row has no deviation, and equal ones have none to speak of: they become 0. */
static void whitening(long rows, const float *advantages, const int64_t *order, float *mean, float *scale) {
    double sum = 0, squares = 0;
    for (long r = 0; r < rows; r++) sum += advantages[order[r]];
    const double middle = sum / (double)rows;
    for (long r = 0; r < rows; r++) {
        const double off = advantages[order[r]] - middle;
        squares += off * off;
    }
    const double deviation = rows > 1 ? sqrt(squares / (double)(rows - 1)) : 0;
    *mean = (float)middle;
    *scale = (float)(1 / (deviation > 1e-8 ? deviation : 1e-8));
}

/* Losses and the gradients at the networks' outputs of one mini-batch; sums over its rows go to `stats`. */
static void ppo_gradients(int kind, long rows, long n, long actor_wide, long critic_wide, const Settings *s,
                          const float *log_std, const float *outs, const float *values, const float *actions,
                          const float *old, const float *advantages, const float *returns, const int64_t *order,
                          float *d_out, float *d_value, float *d_log_std, float *probability, double *stats) {
    const float each = 1.0f / (float)rows;
    const float low = (float)(1 - s->clip_range), high = (float)(1 + s->clip_range);
    float mean = 0, scale = 1;
    if (s->whiten != 0) whitening(rows, advantages, order, &mean, &scale);
    for (long r = 0; r < rows; r++) {
        const long row = order[r];
        const float *out = outs + r * actor_wide, *action = actions + row * (kind == GAUSSIAN ? n : 1);
        float logprob, entropy = 0;
        if (kind == GAUSSIAN) {
            logprob = gaussian_logprob(out, log_std, action, n);
            for (long i = 0; i < n; i++) entropy += 0.5f + HALF_LOG_2PI + log_std[i];
        } else {
            const float log_sum = softmax(out, n, probability);
            logprob = out[(long)action[0]] - log_sum;
            for (long i = 0; i < n; i++) entropy -= probability[i] * (out[i] - log_sum);
        }
        const float log_ratio = logprob - old[row], ratio = expf(log_ratio);
        const float a = (advantages[row] - mean) * scale;
        const int binds = (a > 0 && ratio > high) || (a < 0 && ratio < low);
        const float bounded = ratio < low ? low : ratio > high ? high : ratio;
        /* d loss / d logprob: the surrogate's, and that of coef (r - 1 - log r) */
        const float g = each * ((binds ? 0 : -ratio * a) + (float)s->kl_old_coef * (ratio - 1));
        const float error = values[r * critic_wide] - returns[row];
        d_value[r * critic_wide] = each * 2 * (float)s->value_coef * error;
        float *d = d_out + r * actor_wide;
        if (kind == GAUSSIAN)
            for (long i = 0; i < n; i++) {
                const float inverse = expf(-log_std[i]), z = (action[i] - out[i]) * inverse;
                d[i] = g * z * inverse;
                d_log_std[i] += g * (z * z - 1) - each * (float)s->entropy_coef;
            }
        else
            for (long i = 0; i < n; i++) {
                const float logp = out[i] - (out[(long)action[0]] - logprob);
                d[i] = g * ((i == (long)action[0]) - probability[i]) +
                       each * (float)s->entropy_coef * probability[i] * (logp + entropy);
            }
        stats[POLICY_LOSS] -= (binds ? bounded : ratio) * a;
        stats[VALUE_LOSS] += error * error;
        stats[ENTROPY] += entropy;
        stats[KL_OLD] += ratio - 1 - log_ratio;
        stats[CLIPPED] += binds;
        stats[RATIO] += ratio;
        const double far = log_ratio < 0 ? -log_ratio : log_ratio;
        if (far > stats[FARTHEST]) stats[FARTHEST] = far;
    }
}

/* Mini-batches of PPO over the rows in `order`. `params`, `m`, `v` are updated; `step` counts Adam's steps before.
 * `stats` [mini-batches, STATS]: sums over each mini-batch's rows, the farthest |log ratio|, the gradient's norm. */
EXPORT int tropism_ppo_epoch(int kind, float *params, float *m, float *v, int64_t step, const int64_t *actor_widths,
                             int64_t actor_layers, const int64_t *critic_widths, int64_t critic_layers, int activation,
                             const float *x, const float *actions, const float *old, const float *advantages,
                             const float *returns, const int64_t *order, int64_t rows, int64_t batch,
                             const double *numbers, double *stats) {
    Net actor, critic;
    if (describe(&actor, actor_widths, actor_layers, activation) ||
        describe(&critic, critic_widths, critic_layers, activation) || batch < 1)
        return BAD_SHAPE;
    const Settings *s = (const Settings *)numbers;
    const long n = actor.width[actor_layers], in = actor.width[0], most_rows = up(batch, ROWS);
    const long deviations = kind == GAUSSIAN ? up(n, PAD) : 0, size = actor.size + deviations + critic.size;
    float *ya[MAX_LAYERS + 1], *yc[MAX_LAYERS + 1], *da[MAX_LAYERS + 1], *dc[MAX_LAYERS + 1];
    float *spaces[6] = {layers_room(&actor, most_rows, ya),
                        layers_room(&critic, most_rows, yc),
                        layers_room(&actor, most_rows, da),
                        layers_room(&critic, most_rows, dc),
                        room(size + n),
                        room(most(largest_matrix(&actor), largest_matrix(&critic)))};
    int status = 0;
    for (int i = 0; i < 6; i++) status = spaces[i] ? status : OUT_OF_MEMORY;
    float *grad = spaces[4], *probability = grad + size;
    float *const log_std = params + actor.size, *const value_params = log_std + deviations;
    da[0] = dc[0] = NULL;                /* nobody asks for the observations' gradient */
    if (!status) yc[0] = ya[0];          /* both read the same rows */
    for (long start = 0; start < rows && !status; start += batch, order += batch, stats += STATS) {
        const long now = least(batch, rows - start), whole = up(now, ROWS);
        for (long r = 0; r < now; r++)
            memcpy(ya[0] + r * actor.wide[0], x + order[r] * in, in * sizeof(float));
        memset(ya[0] + now * actor.wide[0], 0, (whole - now) * actor.wide[0] * sizeof(float));
        forward(&actor, params, whole, ya);
        forward(&critic, value_params, whole, yc);
        memset(grad, 0, size * sizeof(float));
        memset(da[actor_layers], 0, whole * actor.wide[actor_layers] * sizeof(float));
        memset(dc[critic_layers], 0, whole * critic.wide[critic_layers] * sizeof(float));
        for (int i = 0; i < STATS; i++) stats[i] = 0;
        ppo_gradients(kind, now, n, actor.wide[actor_layers], critic.wide[critic_layers], s, log_std, ya[actor_layers],
                      yc[critic_layers], actions, old, advantages, returns, order, da[actor_layers],
                      dc[critic_layers], grad + actor.size, probability, stats);
        backward(&actor, params, whole, ya, da, spaces[5], grad);
        backward(&critic, value_params, whole, yc, dc, spaces[5], grad + actor.size + deviations);
        double square = 0;
        for (long i = 0; i < size; i++) square += (double)grad[i] * grad[i];
        const double norm = sqrt(square);
        const float scale = s->max_grad_norm > 0 && norm > s->max_grad_norm ? (float)(s->max_grad_norm / (norm + 1e-6)) : 1;
        adam(size, params, grad, scale, m, v, ++step, (float)s->learning_rate, (float)s->beta1, (float)s->beta2,
             (float)s->eps);
        stats[GRAD_NORM] = norm;
    }
    for (int i = 0; i < 6; i++) free(spaces[i]);
    return status;
}
