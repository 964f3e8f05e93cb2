/* SPDX-License-Identifier: Apache-2.0
 *
 * What the pools of all kernel sets share: the window of one output, and an average's rounding.
 */
#ifndef EDGEFLEET_PORTABLE_WINDOW_H
#define EDGEFLEET_PORTABLE_WINDOW_H

#include <edgefleet/kernels.h>

/* The part of one output's window that lies inside the picture; steps in elements. */
typedef struct {
    const int8_t *first;
    int32_t rows, columns, row_step, step;
} ef_window;

static inline ef_window ef_window_at(const ef_pool_layer *p, const int8_t *picture, int32_t y, int32_t x)
{
    int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
    int32_t bottom = top + p->kernel_h, right = left + p->kernel_w;
    ef_window w;
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

/* Halves away from zero: C's division goes towards it. */
static inline int32_t ef_rounded_quotient(int32_t sum, int32_t count)
{
    return (sum > 0 ? sum + (count >> 1) : sum - (count >> 1)) / count;
}

#endif
