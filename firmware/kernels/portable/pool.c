/* SPDX-License-Identifier: Apache-2.0
 *
 * Average and max pool. Only what lies inside the picture counts.
 */
#include "scale.h"
#include "window.h"

static inline int32_t sum_of(const ef_window *w, int32_t channel)
{
    const int8_t *row = w->first + channel;
    int32_t sum = 0;
    for (int32_t y = 0; y < w->rows; y++, row += w->row_step) {
        const int8_t *in = row;
        for (int32_t x = w->columns; x > 0; x--, in += w->step) sum += *in;
    }
    return sum;
}

static inline int32_t largest_of(const ef_window *w, int32_t channel)
{
    const int8_t *row = w->first + channel;
    int32_t largest = INT8_MIN;
    for (int32_t y = 0; y < w->rows; y++, row += w->row_step) {
        const int8_t *in = row;
        for (int32_t x = w->columns; x > 0; x--, in += w->step)
            if (*in > largest) largest = *in;
    }
    return largest;
}

static inline int8_t *put_averages(const ef_pool_layer *p, const ef_window *w, int8_t *out)
{
    int32_t count = w->rows * w->columns;
    for (int32_t c = 0; c < p->channels; c++)
        *out++ = (int8_t)ef_clamp(ef_rounded_quotient(sum_of(w, c), count), p->act_min, p->act_max);
    return out;
}

static inline int8_t *put_largest(const ef_pool_layer *p, const ef_window *w, int8_t *out)
{
    for (int32_t c = 0; c < p->channels; c++) *out++ = (int8_t)ef_clamp(largest_of(w, c), p->act_min, p->act_max);
    return out;
}

EF_FOR_EACH_FORM void pool(const void *layer, uint8_t *arena, int maximum)
{
    const ef_pool_layer *p = layer;
    const int8_t *picture = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    for (int32_t n = 0; n < p->batches; n++, picture += p->in_h * p->in_w * p->channels)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++) {
                ef_window w = ef_window_at(p, picture, y, x);
                out = maximum ? put_largest(p, &w, out) : put_averages(p, &w, out);
            }
}

EF_FAST_CODE void ef_average_pool_portable_exact(const void *layer, uint8_t *arena) { pool(layer, arena, 0); }

EF_FAST_CODE void ef_max_pool_portable_exact(const void *layer, uint8_t *arena) { pool(layer, arena, 1); }
