/* SPDX-License-Identifier: Apache-2.0
 *
 * Depthwise convolution in portable C: one channel after the other. What a chunk of output rows reads of a channel is
 * first laid out in scratch with its padding, so that nothing is asked about the picture's edge afterwards, and so that
 * a layer that keeps its shape, which is one chunk, may write over its input.
 *
 * Scratch: the rows under one chunk, of the columns under an even number of outputs.
 */
#include <edgefleet/kernels.h>

#include "scale.h"

enum { PIXELS = 2, PLANE_ROWS = 10 };

/* Products of two outputs side by side, added up. */
typedef struct {
    int32_t of[PIXELS];
} sums;

/* How one channel's part of the picture lies in scratch. */
typedef struct {
    int8_t *bytes;
    int32_t chunk_rows, columns, inside; /* output rows at a time; columns of all, and of those inside the picture */
} plane;

static inline int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

static int32_t chunk_rows(const ef_depthwise_layer *p)
{
    int32_t extent = (p->kernel_h - 1) * p->dilation_h + 1;
    if (p->in_h == p->out_h && p->in_w == p->out_w && p->multiplier == 1) return p->out_h;
    return extent >= PLANE_ROWS ? 1 : least((PLANE_ROWS - extent) / p->stride_h + 1, p->out_h);
}

EF_FAST_CODE static plane plane_of(const ef_depthwise_layer *p, int8_t *scratch)
{
    int32_t outputs = (p->out_w + PIXELS - 1) / PIXELS * PIXELS;
    int32_t columns = (outputs - 1) * p->stride_w + (p->kernel_w - 1) * p->dilation_w + 1;
    plane made = {scratch, chunk_rows(p), columns, least(p->in_w, columns - p->pad_left)};
    return made;
}

/* A few bytes mostly: no call. */
static inline void fill(int8_t *to, int32_t value, int32_t count)
{
    for (; count > 0; count--) *to++ = (int8_t)value;
}

/* One channel of pixels that are step bytes apart. */
static inline void gather(int8_t *to, const int8_t *x, int32_t count, int32_t step)
{
    for (; count >= 4; count -= 4, x += 4 * step, to += 4) {
        int8_t b = x[step], c = x[2 * step], d = x[3 * step];
        to[0] = x[0];
        to[1] = b;
        to[2] = c;
        to[3] = d;
    }
    for (; count > 0; count--, x += step) *to++ = *x;
}

/* Rows of one channel from picture row y on, zero points around. */
EF_FAST_CODE static void lay_out(const ef_depthwise_layer *p, const plane *to, const int8_t *channel, int32_t y,
                                 int32_t rows)
{
    int32_t right = to->columns - p->pad_left - to->inside;
    int8_t *line = to->bytes;
    for (; rows > 0; rows--, y++, line += to->columns) {
        if (y < 0 || y >= p->in_h) {
            fill(line, p->in_zero, to->columns);
            continue;
        }
        int8_t *inside = line + p->pad_left;
        fill(line, p->in_zero, p->pad_left);
        gather(inside, channel + y * p->in_y_step, to->inside, p->in_x_step);
        fill(inside + to->inside, p->in_zero, right);
    }
}

/* Three taps of two windows that are stride columns apart. */
EF_FOR_EACH_FORM void three_taps(sums *s, const int8_t *x, const int8_t *w, int32_t stride)
{
    for (int32_t i = 0; i < PIXELS; i++, x += stride) {
        s->of[i] += x[0] * w[0];
        s->of[i] += x[1] * w[1];
        s->of[i] += x[2] * w[2];
    }
}

EF_FOR_EACH_FORM sums nine_taps(const int8_t *x, const int8_t *w, int32_t columns, int32_t stride)
{
    sums s = {{0, 0}};
    three_taps(&s, x, w, stride);
    three_taps(&s, x + columns, w + 3, stride);
    three_taps(&s, x + 2 * columns, w + 6, stride);
    return s;
}

static inline sums all_taps(const ef_depthwise_layer *p, const int8_t *x, const int8_t *w, int32_t columns)
{
    sums s = {{0, 0}};
    int32_t step = p->dilation_w, stride = p->stride_w;
    for (int32_t ky = 0; ky < p->kernel_h; ky++, x += p->dilation_h * columns) {
        const int8_t *tap = x;
        for (const int8_t *end = w + p->kernel_w; w != end; w++, tap += step) {
            s.of[0] += tap[0] * *w;
            s.of[1] += tap[stride] * *w;
        }
    }
    return s;
}

/* One row of outputs; kernel: 1 and 2 are 3x3 with that stride and no dilation, 0 is any other. */
EF_FOR_EACH_FORM void output_row(const ef_depthwise_layer *p, const int8_t *x, int32_t columns, int8_t *out,
                                 const int32_t *stream, ef_form form, int32_t kernel)
{
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, p->rounding};
    const int8_t *w = (const int8_t *)(stream + 1 + ef_scale_words(form));
    uint32_t bias = (uint32_t)stream[0];
    int32_t step = p->out_x_step, stride = kernel ? kernel : p->stride_w;
    for (int32_t left = p->out_w; left > 0; left -= PIXELS, x += PIXELS * stride) {
        sums s = kernel ? nine_taps(x, w, columns, kernel) : all_taps(p, x, w, columns);
        *out = ef_scaled(bias + (uint32_t)s.of[0], stream + 1, form, &range);
        out += step;
        if (left == 1) return;
        *out = ef_scaled(bias + (uint32_t)s.of[1], stream + 1, form, &range);
        out += step;
    }
}

static inline int32_t kernel_of(const ef_depthwise_layer *p)
{
    if (p->kernel_h != 3 || p->kernel_w != 3 || p->dilation_h != 1 || p->dilation_w != 1) return 0;
    return p->stride_w <= 2 ? p->stride_w : 0;
}

EF_FOR_EACH_FORM void chunk(const ef_depthwise_layer *p, const plane *from, int8_t *out, int32_t rows,
                            const int32_t *stream, ef_form form)
{
    int32_t row_step = p->stride_h * from->columns, kernel = kernel_of(p);
    const int8_t *x = from->bytes;
    for (; rows > 0; rows--, x += row_step, out += p->out_y_step) {
        if (kernel == 1)
            output_row(p, x, from->columns, out, stream, form, 1);
        else if (kernel == 2)
            output_row(p, x, from->columns, out, stream, form, 2);
        else
            output_row(p, x, from->columns, out, stream, form, 0);
    }
}

/* All outputs of one input channel. */
EF_FOR_EACH_FORM void channel_outputs(const ef_depthwise_layer *p, const plane *to, const int8_t *channel, int8_t *out,
                                      const int32_t *stream, int32_t words, ef_form form)
{
    int32_t extent = (p->kernel_h - 1) * p->dilation_h + 1;
    for (int32_t y = 0; y < p->out_h; y += to->chunk_rows) {
        int32_t rows = least(to->chunk_rows, p->out_h - y);
        lay_out(p, to, channel, y * p->stride_h - p->pad_top, (rows - 1) * p->stride_h + extent);
        for (int32_t m = 0; m < p->multiplier; m++)
            chunk(p, to, out + y * p->out_y_step + m, rows, stream + m * words, form);
    }
}

EF_FOR_EACH_FORM void convolve(const void *layer, uint8_t *arena, ef_form form)
{
    const ef_depthwise_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    const plane to = plane_of(p, (int8_t *)arena + p->scratch);
    int32_t words = 1 + ef_scale_words(form) + (p->kernel_h * p->kernel_w + 3) / 4, out_c = p->in_c * p->multiplier;
    for (int32_t n = 0; n < p->batches; n++, in += p->in_h * p->in_w * p->in_c, out += p->out_h * p->out_w * out_c) {
        const int32_t *stream = (const int32_t *)(p + 1);
        for (int32_t c = 0; c < p->in_c; c++, stream += p->multiplier * words)
            channel_outputs(p, &to, in + c, out + c * p->multiplier, stream, words, form);
    }
}

#define DEPTHWISE(name, form) \
    EF_FAST_CODE void ef_depthwise_portable_##name(const void *layer, uint8_t *arena) { convolve(layer, arena, form); }

DEPTHWISE(relu, EF_RELU)
DEPTHWISE(any, EF_ANY)
DEPTHWISE(exact, EF_EXACT)
