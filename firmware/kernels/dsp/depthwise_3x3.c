/* SPDX-License-Identifier: Apache-2.0
 *
 * Depthwise 3x3 for the Arm DSP extension: strides 1 and 2 (the same on both axes), no dilation, multiplier 1, channels
 * in fours. Four channels at a time: a chunk of rows of the picture, with its padding, becomes four planes
 * (depthwise_3x3_planes.S says how they lie), and the inner loop goes through each. Where all rows fit one chunk, a
 * channel's input has been read before its output is written, so that the output may take the input's place.
 *
 * Scratch: four planes of ROWS words for each pair of columns.
 */
#include <edgefleet/kernels.h>

#include "intrinsics.h"

enum { ROWS = 10, CHANNELS = 4 };

/* What the inner loops read; the order stands in depthwise_3x3_planes.S. */
typedef struct {
    int32_t out_x_step, out_y_step, rows, pairs, odd, row_step;
} chunk_facts;

typedef void (*plane_loop)(const uint32_t *plane, const int32_t *channel, int8_t *out, const chunk_facts *facts);

void ef_depthwise_3x3_planes_relu_s1(const uint32_t *, const int32_t *, int8_t *, const chunk_facts *);
void ef_depthwise_3x3_planes_relu_s2(const uint32_t *, const int32_t *, int8_t *, const chunk_facts *);
void ef_depthwise_3x3_planes_any_s1(const uint32_t *, const int32_t *, int8_t *, const chunk_facts *);
void ef_depthwise_3x3_planes_any_s2(const uint32_t *, const int32_t *, int8_t *, const chunk_facts *);

/* The planes of four channels: how many pairs of columns they have, words from one to the next, and the padding. */
typedef struct {
    int32_t pairs, words;
    uint32_t zero;
} planes;

/* The same pair of columns for four channels, from the widened bytes of two pixels: even channels, odd channels. */
static inline void put_pair(uint32_t *to, int32_t words, uint32_t even0, uint32_t odd0, uint32_t even1, uint32_t odd1)
{
    to[0] = ef_low_halves(even0, even1);
    to[words] = ef_low_halves(odd0, odd1);
    to[2 * words] = ef_high_halves(even0, even1);
    to[3 * words] = ef_high_halves(odd0, odd1);
}

EF_FAST_CODE static void put_padding(const planes *s, int32_t pairs, uint32_t *to)
{
    for (; pairs > 0; pairs--, to += ROWS) to[0] = to[s->words] = to[2 * s->words] = to[3 * s->words] = s->zero;
}

/* A row of n pixels, pad_left (0 or 1) pixels of padding before it and padding up to the planes' end behind it. */
EF_FAST_CODE static void put_row(const planes *s, const int8_t *in, int32_t step, int32_t n, int32_t pad_left,
                                 uint32_t *to)
{
    int32_t left = s->pairs;
    if (pad_left) {
        uint32_t word = ef_load_word(in);
        put_pair(to, s->words, s->zero, s->zero, ef_even_bytes(word), ef_odd_bytes(word));
        in += step;
        n--;
        left--;
        to += ROWS;
    }
    uint32_t *to1 = to + s->words, *to2 = to1 + s->words, *to3 = to2 + s->words;
    if (n > 2 * left) n = 2 * left;
    for (left -= n >> 1; n >= 2; n -= 2, in += 2 * step) {
        uint32_t first = ef_load_word(in), second = ef_load_word(in + step);
        uint32_t even0 = ef_even_bytes(first), even1 = ef_even_bytes(second);
        uint32_t odd0 = ef_odd_bytes(first), odd1 = ef_odd_bytes(second);
        *to = ef_low_halves(even0, even1);
        *to1 = ef_low_halves(odd0, odd1);
        *to2 = ef_high_halves(even0, even1);
        *to3 = ef_high_halves(odd0, odd1);
        to += ROWS;
        to1 += ROWS;
        to2 += ROWS;
        to3 += ROWS;
    }
    if (n) {
        uint32_t word = ef_load_word(in);
        put_pair(to, s->words, ef_even_bytes(word), ef_odd_bytes(word), s->zero, s->zero);
        to += ROWS;
        left--;
    }
    put_padding(s, left, to);
}

/* Rows of the picture from y on, for four channels from in on. */
static inline void put_rows(const ef_depthwise_layer *p, const planes *s, const int8_t *in, int32_t y, int32_t rows,
                            uint32_t *to)
{
    for (; rows > 0; rows--, y++, to++) {
        if (y < 0 || y >= p->in_h) put_padding(s, s->pairs, to);
        else put_row(s, in + y * p->in_y_step, p->in_x_step, p->in_w, p->pad_left, to);
    }
}

EF_FAST_CODE static inline void convolve_picture(const ef_depthwise_layer *p, const int8_t *in, int8_t *out,
                                                 uint32_t *scratch, plane_loop loop, int32_t stride,
                                                 int32_t channel_words)
{
    const int32_t *stream = (const int32_t *)(p + 1);
    uint32_t zero = (uint16_t)p->in_zero * 0x00010001u;
    int32_t pairs = (((p->out_w - 1) * stride + 4) >> 1) + 1, most = (ROWS - 3) / stride + 1;
    planes s = {pairs, pairs * ROWS, zero};
    chunk_facts facts = {p->out_x_step, p->out_y_step, 0, p->out_w >> 1, p->out_w & 1, stride * 4};
    for (int32_t c = 0; c < p->in_c; c += CHANNELS, stream += CHANNELS * channel_words) {
        for (int32_t y = 0; y < p->out_h; y += most) {
            facts.rows = p->out_h - y < most ? p->out_h - y : most;
            put_rows(p, &s, in + c, y * stride - p->pad_top, (facts.rows - 1) * stride + 3, scratch);
            for (int32_t i = 0; i < CHANNELS; i++)
                loop(scratch + i * s.words, stream + i * channel_words, out + y * p->out_y_step + c + i, &facts);
        }
    }
}

static inline __attribute__((always_inline)) void convolve(const void *layer, uint8_t *arena, plane_loop loop,
                                                           int32_t stride, int32_t channel_words)
{
    const ef_depthwise_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    uint32_t *scratch = (uint32_t *)(void *)(arena + p->scratch);
    for (int32_t n = p->batches; n > 0; n--) {
        convolve_picture(p, in, out, scratch, loop, stride, channel_words);
        in += p->in_h * p->in_w * p->in_c;
        out += p->out_h * p->out_w * p->in_c;
    }
}

enum { RELU_CHANNEL_WORDS = 1 + 2 + 3, ANY_CHANNEL_WORDS = 1 + 3 + 3 };

#define DEPTHWISE(name, loop, stride, channel_words)                                   \
    EF_FAST_CODE void ef_depthwise_dsp_##name(const void *layer, uint8_t *arena)       \
    {                                                                                  \
        convolve(layer, arena, loop, stride, channel_words);                           \
    }

DEPTHWISE(relu_3x3_s1, ef_depthwise_3x3_planes_relu_s1, 1, RELU_CHANNEL_WORDS)
DEPTHWISE(relu_3x3_s2, ef_depthwise_3x3_planes_relu_s2, 2, RELU_CHANNEL_WORDS)
DEPTHWISE(any_3x3_s1, ef_depthwise_3x3_planes_any_s1, 1, ANY_CHANNEL_WORDS)
DEPTHWISE(any_3x3_s2, ef_depthwise_3x3_planes_any_s2, 2, ANY_CHANNEL_WORDS)
