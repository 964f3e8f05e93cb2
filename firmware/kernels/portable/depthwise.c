/* SPDX-License-Identifier: Apache-2.0
 *
 * Depthwise convolution in portable C: one channel after the other, so that its weights are read once.
 */
#include <edgefleet/kernels.h>

#include "scale.h"

/* Where a window's taps begin, and which of them lie inside the picture. */
typedef struct {
    int32_t y, x, first_row, past_row, first_column, past_column;
} window;

static inline int32_t first_inside(int32_t at, int32_t step) { return at < 0 ? (-at + step - 1) / step : 0; }

static inline int32_t past_inside(int32_t at, int32_t step, int32_t count, int32_t size)
{
    int32_t inside = at < size ? (size - at + step - 1) / step : 0;
    return inside < count ? inside : count;
}

static inline window window_at(const ef_depthwise_layer *p, int32_t out_y, int32_t out_x)
{
    window w;
    w.y = out_y * p->stride_h - p->pad_top;
    w.x = out_x * p->stride_w - p->pad_left;
    w.first_row = first_inside(w.y, p->dilation_h);
    w.past_row = past_inside(w.y, p->dilation_h, p->kernel_h, p->in_h);
    w.first_column = first_inside(w.x, p->dilation_w);
    w.past_column = past_inside(w.x, p->dilation_w, p->kernel_w, p->in_w);
    return w;
}

/* The taps inside, less the zero point: outside there is nothing, and the bias counts all taps as zero points. */
static inline uint32_t sum_of(const ef_depthwise_layer *p, const window *w, const int8_t *channel, const int8_t *weights)
{
    int32_t step = p->dilation_w * p->in_x_step, sum = 0, zero = p->in_zero, outside = 0;
    for (int32_t ky = 0; ky < p->kernel_h; ky++, weights += p->kernel_w) {
        if (ky < w->first_row || ky >= w->past_row) {
            for (int32_t kx = 0; kx < p->kernel_w; kx++) outside += weights[kx];
            continue;
        }
        const int8_t *x = channel + (w->y + ky * p->dilation_h) * p->in_y_step + w->x * p->in_x_step;
        for (int32_t kx = 0; kx < w->first_column; kx++) outside += weights[kx];
        for (int32_t kx = w->first_column; kx < w->past_column; kx++) sum += x[kx * step] * weights[kx];
        for (int32_t kx = w->past_column; kx < p->kernel_w; kx++) outside += weights[kx];
    }
    return (uint32_t)(sum + zero * outside);
}

static inline void channel_plane(const ef_depthwise_layer *p, const int8_t *channel, int8_t *out, const int32_t *stream,
                                 ef_form form)
{
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, p->rounding};
    const int8_t *weights = (const int8_t *)(stream + 1 + ef_scale_words(form));
    for (int32_t y = 0; y < p->out_h; y++)
        for (int32_t x = 0; x < p->out_w; x++) {
            window w = window_at(p, y, x);
            uint32_t sum = (uint32_t)stream[0] + sum_of(p, &w, channel, weights);
            out[y * p->out_y_step + x * p->out_x_step] = ef_scaled(sum, stream + 1, form, &range);
        }
}

static inline void convolve(const void *layer, uint8_t *arena, ef_form form)
{
    const ef_depthwise_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    int32_t words = 1 + ef_scale_words(form) + (p->kernel_h * p->kernel_w + 3) / 4, out_c = p->in_c * p->multiplier;
    for (int32_t n = 0; n < p->batches; n++, in += p->in_h * p->in_w * p->in_c, out += p->out_h * p->out_w * out_c) {
        const int32_t *stream = (const int32_t *)(p + 1);
        for (int32_t c = 0; c < p->in_c; c++)
            for (int32_t m = 0; m < p->multiplier; m++, stream += words)
                channel_plane(p, in + c, out + c * p->multiplier + m, stream, form);
    }
}

#define DEPTHWISE(name, form) \
    EF_FAST_CODE void ef_depthwise_portable_##name(const void *layer, uint8_t *arena) { convolve(layer, arena, form); }

DEPTHWISE(relu, EF_RELU)
DEPTHWISE(any, EF_ANY)
DEPTHWISE(exact, EF_EXACT)
