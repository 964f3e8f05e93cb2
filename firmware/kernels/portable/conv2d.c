/* SPDX-License-Identifier: Apache-2.0
 *
 * conv2d in portable C: two pixels by two channels at a time. The windows under both pixels are laid out as columns in
 * the order of the weights; where each pixel is a window (1x1, stride 1, in_c in fours) they are read where they lie.
 *
 * Scratch: two columns of k_quads * 4 bytes, then one kernel row, rounded up to 4 bytes.
 */
#include <edgefleet/kernels.h>

#include "memory.h"
#include "scale.h"

enum { PIXELS = 2, CHANNELS = 2 };
typedef enum { EF_INT8, EF_INT4 } weights_kind;

/* Sums of two pixels and two channels; unsigned, because they may wrap on the way. */
typedef struct {
    uint32_t a[PIXELS], b[PIXELS];
} sums;

static inline int32_t row_taps(const ef_conv2d_layer *p) { return p->dilation_w == 1 ? p->kernel_w : 1; }

static inline int is_direct(const ef_conv2d_layer *p)
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
static void lay_out(const ef_conv2d_layer *p, const int8_t *picture, int32_t y, int32_t x, int8_t *column, int8_t *line)
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

static inline sums multiply_int8(const int8_t *w, const int8_t *x, const int8_t *y, int32_t quads, sums s)
{
    for (; quads > 0; quads--, w += 8, x += 4, y += 4) {
        s.a[0] += (uint32_t)(x[0] * w[0] + x[2] * w[2] + x[1] * w[4] + x[3] * w[6]);
        s.b[0] += (uint32_t)(x[0] * w[1] + x[2] * w[3] + x[1] * w[5] + x[3] * w[7]);
        s.a[1] += (uint32_t)(y[0] * w[0] + y[2] * w[2] + y[1] * w[4] + y[3] * w[6]);
        s.b[1] += (uint32_t)(y[0] * w[1] + y[2] * w[3] + y[1] * w[5] + y[3] * w[7]);
    }
    return s;
}

static inline sums multiply_int4(const int8_t *w, const int8_t *x, const int8_t *y, int32_t quads, sums s)
{
    for (int32_t i = 0; i < quads * 4; i++) {
        int32_t a = (w[i] & 15) - 8, b = w[i] >> 4;
        s.a[0] += (uint32_t)(x[i] * a);
        s.b[0] += (uint32_t)(x[i] * b);
        s.a[1] += (uint32_t)(y[i] * a);
        s.b[1] += (uint32_t)(y[i] * b);
    }
    return s;
}

/* All channels of two pixels; the second may be the first one again. */
static inline void block(const ef_conv2d_layer *p, const int8_t *x, const int8_t *y, int8_t *out_x, int8_t *out_y,
                         ef_form form, weights_kind kind)
{
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, p->rounding};
    const int32_t *stream = (const int32_t *)(p + 1);
    int32_t words = ef_scale_words(form), quad_words = kind == EF_INT4 ? 1 : 2;
    for (int32_t c = 0; c < p->out_c; c += CHANNELS) {
        sums s = {{(uint32_t)stream[0], (uint32_t)stream[0]}, {(uint32_t)stream[1], (uint32_t)stream[1]}};
        const int8_t *w = (const int8_t *)(stream + CHANNELS);
        s = kind == EF_INT4 ? multiply_int4(w, x, y, p->k_quads, s) : multiply_int8(w, x, y, p->k_quads, s);
        stream += CHANNELS + p->k_quads * quad_words;
        out_x[c] = ef_scaled(s.a[0], stream, form, &range);
        out_y[c] = ef_scaled(s.a[1], stream, form, &range);
        if (c + 1 < p->out_c) {
            out_x[c + 1] = ef_scaled(s.b[0], stream + words, form, &range);
            out_y[c + 1] = ef_scaled(s.b[1], stream + words, form, &range);
        }
        stream += CHANNELS * words;
    }
}

static inline void direct(const ef_conv2d_layer *p, const int8_t *in, int8_t *out, ef_form form, weights_kind kind)
{
    int32_t pixels = p->batches * p->out_h * p->out_w;
    for (int32_t i = 0; i < pixels; i += PIXELS, in += PIXELS * p->in_c, out += PIXELS * p->out_c) {
        int32_t next = i + 1 < pixels;
        block(p, in, in + next * p->in_c, out, out + next * p->out_c, form, kind);
    }
}

static inline void convolve(const void *layer, uint8_t *arena, ef_form form, weights_kind kind)
{
    const ef_conv2d_layer *p = layer;
    const int8_t *picture = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    int8_t *columns = (int8_t *)arena + p->scratch, *line = columns + PIXELS * p->k_quads * 4;
    int32_t pending = 0;
    if (is_direct(p)) {
        direct(p, picture, out, form, kind);
        return;
    }
    memset(columns, 0, (size_t)(PIXELS * p->k_quads * 4)); /* behind the windows there are weights of 0 */
    for (int32_t n = 0; n < p->batches; n++, picture += p->in_h * p->in_w * p->in_c)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++) {
                int8_t *column = columns + pending * p->k_quads * 4;
                lay_out(p, picture, y * p->stride_h - p->pad_top, x * p->stride_w - p->pad_left, column, line);
                if (++pending < PIXELS) continue;
                block(p, columns, column, out, out + p->out_c, form, kind);
                out += PIXELS * p->out_c;
                pending = 0;
            }
    if (pending) block(p, columns, columns, out, out, form, kind);
}

#define CONV2D(name, form, kind)                                                                                      \
    EF_FAST_CODE void ef_conv2d_portable_##name(const void *layer, uint8_t *arena) { convolve(layer, arena, form, kind); }

CONV2D(relu, EF_RELU, EF_INT8)
CONV2D(any, EF_ANY, EF_INT8)
CONV2D(exact, EF_EXACT, EF_INT8)
CONV2D(relu_int4, EF_RELU, EF_INT4)
CONV2D(any_int4, EF_ANY, EF_INT4)
CONV2D(exact_int4, EF_EXACT, EF_INT4)
