/* SPDX-License-Identifier: Apache-2.0
 *
 * Average and max pool, and mean over axes in front of the channels, for Helium. Only what lies inside the picture
 * counts. The average takes four channels at a time, the maximum sixteen.
 */
#include "../portable/fixed_point.h"
#include "../portable/window.h"
#include "scale.h"

enum { CHUNK = 16 };

static inline int32x4_t sum_window(const ef_window *w, int32_t channel, mve_pred16_t some)
{
    const int8_t *row = w->first + channel;
    int32x4_t sum = vdupq_n_s32(0);
    for (int32_t y = w->rows; y > 0; y--, row += w->row_step) {
        const int8_t *in = row;
        for (int32_t x = w->columns; x > 0; x--, in += w->step) sum = vaddq_s32(sum, vldrbq_z_s32(in, some));
    }
    return sum;
}

static inline int8x16_t largest_of_window(const ef_window *w, int32_t channel, mve_pred16_t some)
{
    const int8_t *row = w->first + channel;
    int8x16_t largest = vdupq_n_s8(INT8_MIN);
    for (int32_t y = w->rows; y > 0; y--, row += w->row_step) {
        const int8_t *in = row;
        for (int32_t x = w->columns; x > 0; x--, in += w->step) largest = vmaxq_s8(largest, vldrbq_z_s8(in, some));
    }
    return largest;
}

static inline void average(const ef_pool_layer *p, const ef_window *w, int32_t channel, int8_t *out)
{
    int32_t sums[EF_LANES], count = w->rows * w->columns, left = p->channels - channel;
    vstrwq_s32(sums, sum_window(w, channel, ef_first(left)));
    for (int32_t i = 0; i < EF_LANES && i < left; i++)
        out[i] = (int8_t)ef_clamp(ef_rounded_quotient(sums[i], count), p->act_min, p->act_max);
}

static inline void largest(const ef_pool_layer *p, const ef_window *w, int32_t channel, int8_t *out)
{
    mve_pred16_t some = vctp8q((uint32_t)(p->channels - channel));
    int8x16_t y = vminq_s8(largest_of_window(w, channel, some), vdupq_n_s8((int8_t)p->act_max));
    vstrbq_p_s8(out, vmaxq_s8(y, vdupq_n_s8((int8_t)p->act_min)), some);
}

static inline __attribute__((always_inline)) void pool(const void *layer, uint8_t *arena, int maximum)
{
    const ef_pool_layer *p = layer;
    const int8_t *picture = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    for (int32_t n = 0; n < p->batches; n++, picture += p->in_h * p->in_w * p->channels)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++, out += p->channels) {
                ef_window w = ef_window_at(p, picture, y, x);
                for (int32_t c = 0; c < p->channels; c += maximum ? CHUNK : EF_LANES) {
                    if (maximum) largest(p, &w, c, out + c);
                    else average(p, &w, c, out + c);
                }
            }
}

EF_FAST_CODE void ef_average_pool_helium_exact(const void *layer, uint8_t *arena) { pool(layer, arena, 0); }

EF_FAST_CODE void ef_max_pool_helium_exact(const void *layer, uint8_t *arena) { pool(layer, arena, 1); }

/* Limit: only the first pair of axes of ef_mean_layer is there (shape[3] and shape[4] are 1). */
EF_FAST_CODE void ef_mean_helium_rows(const void *layer, uint8_t *arena)
{
    const ef_mean_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    int32_t step = p->shape[2], rows = p->shape[1];
    const ef_exact_range range = {p->out_zero, INT8_MIN, INT8_MAX};
    int32x4_t multiplier = vdupq_n_s32(p->multiplier), shift = vdupq_n_s32(p->shift);
    for (int32_t i = 0; i < p->shape[0]; i++, in += rows * step, out += step)
        for (int32_t c = 0; c < step; c += EF_LANES) {
            const ef_window all = {in, rows, 1, step, step};
            mve_pred16_t some = ef_first(step - c);
            int32x4_t sum = vaddq_n_s32(sum_window(&all, c, some), p->offset);
            vstrbq_p_s32(out + c, ef_scale4_exactly(sum, multiplier, shift, &range), some);
        }
}
