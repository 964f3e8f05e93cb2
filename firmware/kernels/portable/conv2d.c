/* SPDX-License-Identifier: Apache-2.0
 *
 * conv2d in portable C: two pixels by two channels at a time. The windows under both pixels are laid out as columns in
 * the order of the weights. Where each pixel is a window (1x1, stride 1, in_c in fours) they are copied as they are; with
 * no more channels out than in, such a layer may write over its input.
 *
 * Scratch: two columns of k_quads * 4 bytes, then one kernel row, rounded up to 4 bytes.
 */
#include <edgefleet/kernels.h>

#include "memory.h"
#include "scale.h"

enum { PIXELS = 2, CHANNELS = 2 };
typedef enum { EF_INT8, EF_INT4 } weights_kind;

/* Products of two pixels and two channels, added up; they fit 32 bits, but with the bias they may wrap on the way. */
typedef struct {
    int32_t a[PIXELS], b[PIXELS];
} sums;

static inline int32_t row_taps(const ef_conv2d_layer *p) { return p->dilation_w == 1 ? p->kernel_w : 1; }

static inline int is_by_pixel(const ef_conv2d_layer *p)
{
    return p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 && p->in_c % 4 == 0;
}

/* Some taps of one kernel row, from column x on: where they lie in the picture, or else laid out in line. */
static const int8_t *taps_at(const ef_conv2d_layer *p, const int8_t *picture, int32_t y, int32_t x, int32_t taps,
                             int8_t *line)
{
    int32_t step = p->in_c;
    if (y < 0 || y >= p->in_h) {
        memset(line, p->in_zero, (size_t)(taps * step));
        return line;
    }
    const int8_t *row = picture + y * p->in_w * step;
    if (x >= 0 && x + taps <= p->in_w) return row + x * step;
    for (int32_t tap = 0; tap < taps; tap++, x++) {
        if (x < 0 || x >= p->in_w)
            memset(line + tap * step, p->in_zero, (size_t)step);
        else
            memcpy(line + tap * step, row + x * step, (size_t)step);
    }
    return line;
}

/* One window as a column: the whole words of each row first, then what is left of the rows. */
EF_FAST_CODE static void lay_out(const ef_conv2d_layer *p, const int8_t *picture, int32_t y, int32_t x,
                                 int8_t *column, int8_t *line)
{
    int32_t taps = row_taps(p), parts = p->kernel_w / taps, bytes = taps * p->in_c;
    size_t whole = (size_t)(bytes & ~3), rest = (size_t)(bytes & 3);
    int8_t *leftover = column + (int32_t)whole * parts * p->kernel_h;
    for (int32_t ky = 0; ky < p->kernel_h; ky++)
        for (int32_t part = 0; part < parts; part++) {
            int32_t from = x + part * p->dilation_w;
            const int8_t *row = taps_at(p, picture, y + ky * p->dilation_h, from, taps, line);
            memcpy(column, row, whole);
            for (size_t i = 0; i < rest; i++) leftover[i] = row[whole + i];
            column += whole;
            leftover += rest;
        }
}

/* One weight of each channel with one input of each pixel. */
EF_FOR_EACH_FORM void accumulate(sums *s, int32_t a, int32_t b, int32_t x, int32_t y)
{
    s->a[0] += x * a;
    s->b[0] += x * b;
    s->a[1] += y * a;
    s->b[1] += y * b;
}

EF_FOR_EACH_FORM sums multiply_int8(const int8_t *w, const int8_t *x, const int8_t *y, int32_t quads)
{
    sums s = {{0, 0}, {0, 0}};
    for (const int8_t *end = w + 8 * quads; w != end; w += 8, x += 4, y += 4) {
        accumulate(&s, w[0], w[1], x[0], y[0]);
        accumulate(&s, w[2], w[3], x[2], y[2]);
        accumulate(&s, w[4], w[5], x[1], y[1]);
        accumulate(&s, w[6], w[7], x[3], y[3]);
    }
    return s;
}

EF_FOR_EACH_FORM sums multiply_int4(const int8_t *w, const int8_t *x, const int8_t *y, int32_t quads)
{
    sums s = {{0, 0}, {0, 0}};
    for (const int8_t *end = w + 4 * quads; w != end; w++, x++, y++)
        accumulate(&s, (*w & 15) - 8, *w >> 4, *x, *y);
    return s;
}

/* All channels of two pixels; the second may be the first one again. */
EF_FOR_EACH_FORM void two_pixels(const ef_conv2d_layer *p, const int8_t *x, const int8_t *y, int8_t *out_x,
                                 int8_t *out_y, ef_form form, weights_kind kind)
{
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, p->rounding};
    const int32_t *stream = (const int32_t *)(p + 1);
    int32_t words = ef_scale_words(form), quad_words = kind == EF_INT4 ? 1 : 2;
    for (int32_t c = 0; c < p->out_c; c += CHANNELS) {
        uint32_t bias_a = (uint32_t)stream[0], bias_b = (uint32_t)stream[1];
        const int8_t *w = (const int8_t *)(stream + CHANNELS);
        sums s = kind == EF_INT4 ? multiply_int4(w, x, y, p->k_quads) : multiply_int8(w, x, y, p->k_quads);
        stream += CHANNELS + p->k_quads * quad_words;
        out_x[c] = ef_scaled(bias_a + (uint32_t)s.a[0], stream, form, &range);
        out_y[c] = ef_scaled(bias_a + (uint32_t)s.a[1], stream, form, &range);
        if (c + 1 < p->out_c) {
            out_x[c + 1] = ef_scaled(bias_b + (uint32_t)s.b[0], stream + words, form, &range);
            out_y[c + 1] = ef_scaled(bias_b + (uint32_t)s.b[1], stream + words, form, &range);
        }
        stream += CHANNELS * words;
    }
}

typedef void (*block)(const ef_conv2d_layer *p, const int8_t *x, const int8_t *y, int8_t *out_x, int8_t *out_y);

EF_FOR_EACH_FORM void by_pixel(const ef_conv2d_layer *p, const int8_t *in, int8_t *out, int8_t *columns, block pair)
{
    size_t bytes = (size_t)p->in_c;
    for (int32_t left = p->batches * p->out_h * p->out_w; left > 0; left -= PIXELS, in += PIXELS * bytes) {
        int32_t next = left > 1;
        memcpy(columns, in, bytes * (size_t)(1 + next));
        pair(p, columns, columns + next * p->in_c, out, out + next * p->out_c);
        out += PIXELS * p->out_c;
    }
}

EF_FOR_EACH_FORM void convolve(const void *layer, uint8_t *arena, block pair)
{
    const ef_conv2d_layer *p = layer;
    const int8_t *picture = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    int8_t *columns = (int8_t *)arena + p->scratch, *line = columns + PIXELS * p->k_quads * 4;
    int32_t pending = 0;
    if (is_by_pixel(p)) {
        by_pixel(p, picture, out, columns, pair);
        return;
    }
    memset(columns, 0, (size_t)(PIXELS * p->k_quads * 4)); /* behind the windows there are weights of 0 */
    for (int32_t n = 0; n < p->batches; n++, picture += p->in_h * p->in_w * p->in_c)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++) {
                int8_t *column = columns + pending * p->k_quads * 4;
                lay_out(p, picture, y * p->stride_h - p->pad_top, x * p->stride_w - p->pad_left, column, line);
                if (++pending < PIXELS) continue;
                pair(p, columns, column, out, out + p->out_c);
                out += PIXELS * p->out_c;
                pending = 0;
            }
    if (pending) pair(p, columns, columns, out, out);
}

#define CONV2D(name, form, kind)                                                                                    \
    static EF_FAST_CODE EF_APART void pair_##name(const ef_conv2d_layer *p, const int8_t *x, const int8_t *y,       \
                                                  int8_t *out_x, int8_t *out_y)                                     \
    {                                                                                                               \
        two_pixels(p, x, y, out_x, out_y, form, kind);                                                              \
    }                                                                                                               \
    EF_FAST_CODE void ef_conv2d_portable_##name(const void *layer, uint8_t *arena)                                  \
    {                                                                                                               \
        convolve(layer, arena, pair_##name);                                                                        \
    }

CONV2D(relu, EF_RELU, EF_INT8)
CONV2D(any, EF_ANY, EF_INT8)
CONV2D(exact, EF_EXACT, EF_INT8)
CONV2D(relu_int4, EF_RELU, EF_INT4)
CONV2D(any_int4, EF_ANY, EF_INT4)
CONV2D(exact_int4, EF_EXACT, EF_INT4)
