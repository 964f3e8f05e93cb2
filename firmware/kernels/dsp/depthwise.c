/* SPDX-License-Identifier: Apache-2.0
 *
 * Depthwise of any kernel, stride, dilation and multiplier for the Arm DSP extension. Four input channels at a time: the
 * rows that a chunk of output rows needs become four planes of 16-bit values with their padding, and each output is a
 * sum of products of pairs (smlad), four outputs at a time.
 *
 * With dilated columns, a plane's row holds columns 0, d, 2d, … first, then 1, d + 1, …, so that a kernel's row always
 * meets neighbours: outputs d columns apart are a line of their own.
 *
 * Scratch: four planes, each plane_rows * row_halves halves, rounded up to words; then one channel's weights, a word for
 * each pair of taps. Where one chunk holds all rows, a channel's input has been read before its output is written.
 */
#include <edgefleet/kernels.h>

#include "intrinsics.h"
#include "scale.h"

enum { CHANNELS = 4, OUTPUTS = 4, PLANE_ROWS = 10 };

/* What follows from a layer's geometry. */
typedef struct {
    const ef_depthwise_layer *layer;
    ef_exact_range range;
    int32_t chunk_rows;  /* output rows a time */
    int32_t phase_halves; /* of a plane's row, those columns that are dilation_w apart */
    int32_t row_halves, plane_halves;
    int32_t tap_pairs; /* of a kernel's row */
} shape;

static inline shape shape_of(const ef_depthwise_layer *p)
{
    shape s;
    int32_t extent = (p->kernel_h - 1) * p->dilation_h + 1;
    int32_t columns = (p->out_w - 1) * p->stride_w + (p->kernel_w - 1) * p->dilation_w + 1;
    s.layer = p;
    s.range = (ef_exact_range){p->out_zero, p->act_min, p->act_max, EF_ROUND_TWICE};
    s.chunk_rows = extent < PLANE_ROWS ? (PLANE_ROWS - extent) / p->stride_h + 1 : 1;
    if (s.chunk_rows > p->out_h) s.chunk_rows = p->out_h;
    s.tap_pairs = (p->kernel_w + 1) >> 1;
    s.phase_halves = (columns + p->dilation_w - 1) / p->dilation_w + 1;
    s.row_halves = s.phase_halves * p->dilation_w;
    s.plane_halves = (((s.chunk_rows - 1) * p->stride_h + extent) * s.row_halves + 1) & ~1;
    return s;
}

static inline void put(int16_t *to, int32_t plane_halves, uint32_t word)
{
    uint32_t even = ef_even_bytes(word), odd = ef_odd_bytes(word);
    to[0] = (int16_t)even;
    to[plane_halves] = (int16_t)odd;
    to[2 * plane_halves] = (int16_t)(even >> 16);
    to[3 * plane_halves] = (int16_t)(odd >> 16);
}

/* One row of the picture (NULL: padding), to the four planes. */
EF_FAST_CODE static void put_row(const shape *s, const int8_t *in, int32_t channels, int16_t *to)
{
    const ef_depthwise_layer *p = s->layer;
    uint32_t zero = (uint8_t)p->in_zero * 0x01010101u;
    for (int32_t phase = 0; phase < p->dilation_w; phase++) {
        int32_t x = phase - p->pad_left;
        for (int32_t i = 0; i < s->phase_halves; i++, x += p->dilation_w, to++) {
            int inside = in && x >= 0 && x < p->in_w;
            put(to, s->plane_halves, inside ? ef_load_bytes(in + x * p->in_x_step, channels) : zero);
        }
    }
}

EF_FAST_CODE static void put_rows(const shape *s, const int8_t *in, int32_t channels, int32_t y, int32_t out_rows,
                                  int16_t *to)
{
    const ef_depthwise_layer *p = s->layer;
    int32_t rows = (out_rows - 1) * p->stride_h + (p->kernel_h - 1) * p->dilation_h + 1;
    for (; rows > 0; rows--, y++, to += s->row_halves)
        put_row(s, y < 0 || y >= p->in_h ? 0 : in + y * p->in_y_step, channels, to);
}

/* A channel's weights as pairs of halves; an odd kernel's last pair has a zero. */
EF_FAST_CODE static void put_weights(const shape *s, const int8_t *from, uint32_t *to)
{
    const ef_depthwise_layer *p = s->layer;
    for (int32_t y = 0; y < p->kernel_h; y++, from += p->kernel_w)
        for (int32_t x = 0; x < p->kernel_w; x += 2) {
            int32_t second = x + 1 < p->kernel_w ? from[x + 1] : 0;
            *to++ = ef_low_halves((uint32_t)(int32_t)from[x], (uint32_t)second);
        }
}

/* Sums of four outputs of a line; step: bytes from one's first column to the next one's. */
static inline void sum_outputs(const shape *s, const int8_t *row, int32_t step, const uint32_t *weights, int32_t bias,
                               int32_t *sums)
{
    int32_t s0 = bias, s1 = bias, s2 = bias, s3 = bias;
    int32_t row_step = s->layer->dilation_h * s->row_halves * 2;
    for (int32_t ky = s->layer->kernel_h; ky; ky--, row += row_step) {
        const int8_t *x0 = row, *x2 = row + 2 * step;
        for (int32_t i = s->tap_pairs; i; i--, x0 += 4, x2 += 4) {
            uint32_t w = *weights++;
            s0 = ef_multiply_halves(ef_load_word(x0), w, s0);
            s1 = ef_multiply_halves(ef_load_word(x0 + step), w, s1);
            s2 = ef_multiply_halves(ef_load_word(x2), w, s2);
            s3 = ef_multiply_halves(ef_load_word(x2 + step), w, s3);
        }
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

/* A line: outputs whose columns are dilation_w apart. */
typedef struct {
    const int8_t *row;
    int8_t *out;
    int32_t step, out_step, n;
} line;

static inline void put_line(const shape *s, line at, const uint32_t *weights, const int32_t *channel, ef_form form)
{
    for (; at.n > 0; at.n -= OUTPUTS, at.row += OUTPUTS * at.step) {
        int32_t sums[OUTPUTS];
        /* fewer than four are left: the others are the first again, so that nothing outside the planes is read */
        int32_t step = at.n < OUTPUTS ? 0 : at.step;
        int32_t n = at.n < OUTPUTS ? 1 : OUTPUTS;
        sum_outputs(s, at.row, step, weights, channel[0], sums);
        for (int32_t i = 0; i < n; i++, at.out += at.out_step)
            *at.out = ef_scaled(sums[i], channel + 1, form, &s->range);
        if (n == 1) at.n += OUTPUTS - 1, at.row -= (OUTPUTS - 1) * at.step;
    }
}

static inline void put_channel(const shape *s, const int16_t *plane, int8_t *out, int32_t out_rows,
                               const int32_t *channel, uint32_t *weights, ef_form form)
{
    const ef_depthwise_layer *p = s->layer;
    int32_t d = p->dilation_w;
    put_weights(s, (const int8_t *)(channel + 1 + ef_scale_words(form)), weights);
    for (int32_t y = 0; y < out_rows; y++, plane += p->stride_h * s->row_halves, out += p->out_y_step)
        for (int32_t r = 0; r < d && r < p->out_w; r++) {
            int32_t column = r * p->stride_w, half = column % d * s->phase_halves + column / d;
            put_line(s, (line){(const int8_t *)(plane + half), out + r * p->out_x_step, p->stride_w * 2,
                               d * p->out_x_step, (p->out_w - r + d - 1) / d}, weights, channel, form);
        }
}

EF_FAST_CODE static inline void convolve_picture(const shape *s, const int8_t *in, int8_t *out, int16_t *planes,
                                                 ef_form form)
{
    const ef_depthwise_layer *p = s->layer;
    const int32_t *channel = (const int32_t *)(p + 1);
    int32_t channel_words = 1 + ef_scale_words(form) + ((p->kernel_h * p->kernel_w + 3) >> 2);
    uint32_t *weights = (uint32_t *)(void *)(planes + CHANNELS * s->plane_halves);
    for (int32_t c = 0; c < p->in_c; c += CHANNELS) {
        int32_t channels = p->in_c - c < CHANNELS ? p->in_c - c : CHANNELS, outputs = channels * p->multiplier;
        for (int32_t y = 0; y < p->out_h; y += s->chunk_rows) {
            int32_t rows = p->out_h - y < s->chunk_rows ? p->out_h - y : s->chunk_rows;
            int8_t *to = out + y * p->out_y_step + c * p->multiplier;
            put_rows(s, in + c, channels, y * p->stride_h - p->pad_top, rows, planes);
            for (int32_t i = 0; i < outputs; i++)
                put_channel(s, planes + i / p->multiplier * s->plane_halves, to + i, rows, channel + i * channel_words,
                            weights, form);
        }
        channel += outputs * channel_words;
    }
}

static inline __attribute__((always_inline)) void convolve(const void *layer, uint8_t *arena, ef_form form)
{
    const ef_depthwise_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    const shape s = shape_of(p);
    for (int32_t n = p->batches; n > 0; n--) {
        convolve_picture(&s, in, out, (int16_t *)(void *)(arena + p->scratch), form);
        in += p->in_h * p->in_w * p->in_c;
        out += p->out_h * p->out_w * p->in_c * p->multiplier;
    }
}

EF_FAST_CODE void ef_depthwise_dsp_relu(const void *layer, uint8_t *arena) { convolve(layer, arena, EF_RELU); }

EF_FAST_CODE void ef_depthwise_dsp_any(const void *layer, uint8_t *arena) { convolve(layer, arena, EF_ANY); }

EF_FAST_CODE void ef_depthwise_dsp_exact(const void *layer, uint8_t *arena) { convolve(layer, arena, EF_EXACT); }
