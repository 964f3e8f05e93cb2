/* SPDX-License-Identifier: Apache-2.0
 *
 * Average and max pool. Only what lies inside the picture counts.
 */
#include <edgefleet/kernels.h>

#include "fixed_point.h"

/* The part of one output's window that lies inside the picture. */
typedef struct {
    const int8_t *first;
    int32_t rows, columns, row_step, step;
} window;

static window window_at(const ef_pool_layer *p, const int8_t *picture, int32_t y, int32_t x)
{
    int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
    int32_t bottom = top + p->kernel_h, right = left + p->kernel_w;
    window w;
    if (top < 0) top = 0;
    if (left < 0) left = 0;
    if (bottom > p->in_h) bottom = p->in_h;
    if (right > p->in_w) right = p->in_w;
    w.step = p->channels;
    w.row_step = p->in_w * w.step;
    w.rows = bottom - top;
    w.columns = right - left;
    w.first = picture + top * w.row_step + left * w.step;
    return w;
}

static inline int32_t sum_of(const window *w, int32_t channel)
{
    const int8_t *row = w->first + channel;
    int32_t sum = 0;
    for (int32_t y = 0; y < w->rows; y++, row += w->row_step) {
        const int8_t *in = row;
        for (int32_t x = w->columns; x > 0; x--, in += w->step) sum += *in;
    }
    return sum;
}

static inline int32_t largest_of(const window *w, int32_t channel)
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

/* Halves away from zero: C's division goes towards it. */
static inline int32_t rounded_quotient(int32_t sum, int32_t count)
{
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

EF_FAST_CODE void ef_average_pool_portable_exact(const void *layer, uint8_t *arena)
{
    const ef_pool_layer *p = layer;
    const int8_t *picture = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    for (int32_t n = 0; n < p->batches; n++, picture += p->in_h * p->in_w * p->channels)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++) {
                window w = window_at(p, picture, y, x);
                int32_t count = w.rows * w.columns;
                for (int32_t c = 0; c < p->channels; c++)
                    *out++ = (int8_t)ef_clamp(rounded_quotient(sum_of(&w, c), count), p->act_min, p->act_max);
            }
}

EF_FAST_CODE void ef_max_pool_portable_exact(const void *layer, uint8_t *arena)
{
    const ef_pool_layer *p = layer;
    const int8_t *picture = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    for (int32_t n = 0; n < p->batches; n++, picture += p->in_h * p->in_w * p->channels)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++) {
                window w = window_at(p, picture, y, x);
                for (int32_t c = 0; c < p->channels; c++)
                    *out++ = (int8_t)ef_clamp(largest_of(&w, c), p->act_min, p->act_max);
            }
}
