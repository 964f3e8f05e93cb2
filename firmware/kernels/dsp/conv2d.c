/* SPDX-License-Identifier: Apache-2.0
 *
 * conv2d for the Arm DSP extension: four pixels by all channels at a time. What lies under four windows becomes columns
 * of 16-bit pairs, then an inner loop (conv2d_blocks.S, where columns and streams are described) goes through all
 * channels. Windows are read where they lie in the picture, at any address; only those that leave it, or have dilated
 * columns, are first laid out in the scratch.
 *
 * Scratch: columns (k_quads * 32 bytes); exact: sums (16 bytes for each channel, out_c rounded up to even); then the
 * tiles: four windows laid out, and afterwards, in the same place, outputs of blocks that are not written directly
 * (fewer than four pixels, or an odd out_c).
 */
#include <edgefleet/kernels.h>

#include "../portable/memory.h"
#include "intrinsics.h"
#include "scale.h"

enum { PIXELS = 4 };

/* What the inner loops read; the offsets stand in conv2d_blocks.S. */
typedef struct {
    const int32_t *stream_end;
    const uint32_t *columns_end;
    int32_t out_step, k_quads;
    const int32_t *sums_of_x;
} block_facts;

typedef void (*block_loop)(const uint32_t *columns, const int32_t *stream, void *out, const block_facts *facts);

void ef_conv2d_block_relu(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_any(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_sums(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_relu_halves(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_any_halves(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_relu_int4(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_any_int4(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_sums_int4(const uint32_t *, const int32_t *, void *, const block_facts *);

typedef uint32_t *(*widen_loop)(const int8_t *, const int8_t *, const int8_t *, const int8_t *, uint32_t *, int32_t);

uint32_t *ef_widen4(const int8_t *, const int8_t *, const int8_t *, const int8_t *, uint32_t *columns, int32_t quads);
uint32_t *ef_widen4_halves(const int8_t *, const int8_t *, const int8_t *, const int8_t *, uint32_t *columns,
                           int32_t quads);

/* A variant of the kernel: constants, which the compiler folds. */
typedef struct {
    block_loop block;
    widen_loop widen;
    int32_t scale_words, quad_words; /* of a channel; of two channels' weights */
    int int4, exact;
} variant;

/* A window's rows: where the first lies, and how far apart they are. */
typedef struct {
    const int8_t *row[PIXELS];
    int32_t pitch[PIXELS];
} windows;

/* Where the next window begins in the picture. */
typedef struct {
    int32_t y, x;
} place;

static inline void copy_bytes(int8_t *to, const int8_t *from, int32_t n)
{
    for (; n >= 4; n -= 4, to += 4, from += 4) ef_store_word(to, ef_load_word(from));
    for (; n > 0; n--) *to++ = *from++;
}

/* A run of neighbouring columns from x on, the zero point where they lie outside. */
static void lay_out_run(const ef_conv2d_layer *p, const int8_t *row, int32_t x, int32_t columns, int8_t *to)
{
    int32_t left = x < 0 ? -x : 0, right = x + columns > p->in_w ? x + columns - p->in_w : 0;
    if (left > columns) left = columns;
    if (right > columns) right = columns;
    int32_t inside = columns - left - right;
    if (inside < 0) inside = 0;
    if (left) memset(to, p->in_zero, (size_t)(left * p->in_c));
    copy_bytes(to + left * p->in_c, row + (x + left) * p->in_c, inside * p->in_c);
    if (right) memset(to + (left + inside) * p->in_c, p->in_zero, (size_t)((columns - left - inside) * p->in_c));
}

/* The bytes under a window, in order. */
static void lay_out(const ef_conv2d_layer *p, const int8_t *picture, place at, int8_t *to)
{
    int32_t run = p->dilation_w == 1 ? p->kernel_w : 1, row_bytes = p->kernel_w * p->in_c;
    for (int32_t ky = 0; ky < p->kernel_h; ky++, to += row_bytes) {
        int32_t y = at.y + ky * p->dilation_h;
        if (y < 0 || y >= p->in_h) {
            memset(to, p->in_zero, (size_t)row_bytes);
            continue;
        }
        const int8_t *row = picture + y * p->in_w * p->in_c;
        for (int32_t kx = 0; kx < p->kernel_w; kx += run)
            lay_out_run(p, row, at.x + kx * p->dilation_w, run, to + kx * p->in_c);
    }
}

static inline int leaves_picture(const ef_conv2d_layer *p, place at)
{
    return at.y < 0 || at.x < 0 || at.y + (p->kernel_h - 1) * p->dilation_h >= p->in_h || at.x + p->kernel_w > p->in_w;
}

static inline void advance(const ef_conv2d_layer *p, place *at)
{
    at->x += p->stride_w;
    if (at->x == p->out_w * p->stride_w - p->pad_left) {
        at->x = -p->pad_left;
        at->y += p->stride_h;
    }
}

/* Four windows from *at on, which moves behind the n that count; the others are the first one again. */
static inline void find_windows(const ef_conv2d_layer *p, const int8_t *picture, place *at, int32_t n, int8_t *tiles,
                                windows *w)
{
    int32_t tile = p->kernel_h * p->kernel_w * p->in_c;
    for (int32_t i = 0; i < n; i++, advance(p, at)) {
        if (p->dilation_w == 1 && !leaves_picture(p, *at)) {
            w->row[i] = picture + (at->y * p->in_w + at->x) * p->in_c;
            w->pitch[i] = p->dilation_h * p->in_w * p->in_c;
            continue;
        }
        lay_out(p, picture, *at, tiles);
        w->row[i] = tiles;
        w->pitch[i] = p->kernel_w * p->in_c;
        tiles += tile;
    }
    for (; n < PIXELS; n++) {
        w->row[n] = w->row[0];
        w->pitch[n] = w->pitch[0];
    }
}

/* The next four of what is left of the rows behind their whole words; zeros behind the last. */
typedef struct {
    int32_t from, at, row_bytes, rows;
} leftover;

static inline uint32_t leftover_word(const int8_t *row, int32_t pitch, leftover *rest)
{
    uint32_t word = 0;
    for (int32_t bits = 0; bits < 32 && rest->rows; bits += 8) {
        word |= (uint32_t)(uint8_t)row[rest->at] << bits;
        if (++rest->at < rest->row_bytes) continue;
        rest->at += rest->from - rest->row_bytes + pitch;
        rest->row_bytes += pitch;
        rest->from += pitch;
        rest->rows--;
    }
    return word;
}

static void widen_leftovers(const windows *w, int32_t from, int32_t row_bytes, int32_t rows, uint32_t *columns,
                            const variant *v)
{
    leftover rest[PIXELS];
    for (int32_t i = 0; i < PIXELS; i++) rest[i] = (leftover){from, from, row_bytes, rows};
    while (rest[0].rows) {
        uint32_t words[PIXELS];
        for (int32_t i = 0; i < PIXELS; i++) words[i] = leftover_word(w->row[i], w->pitch[i], &rest[i]);
        columns = v->widen((const int8_t *)&words[0], (const int8_t *)&words[1], (const int8_t *)&words[2],
                           (const int8_t *)&words[3], columns, 1);
    }
}

/* Whole words of each row first, row after row, then what is left of each. */
static inline void widen_windows(const windows *w, int32_t row_bytes, int32_t rows, uint32_t *columns, const variant *v)
{
    int32_t words = row_bytes >> 2;
    const int8_t *r0 = w->row[0], *r1 = w->row[1], *r2 = w->row[2], *r3 = w->row[3];
    for (int32_t i = words ? rows : 0; i; i--) {
        columns = v->widen(r0, r1, r2, r3, columns, words);
        r0 += w->pitch[0];
        r1 += w->pitch[1];
        r2 += w->pitch[2];
        r3 += w->pitch[3];
    }
    if (row_bytes & 3) widen_leftovers(w, words * 4, row_bytes, rows, columns, v);
}

/* The sum of each pixel's columns: what int4's offset of 8 multiplies. */
static void sum_columns(const uint32_t *columns, int32_t k_quads, int32_t *sums)
{
    const uint32_t ones = 0x00010001;
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (int32_t i = k_quads * 2; i; i--, columns += PIXELS) {
        s0 = ef_multiply_halves(columns[0], ones, s0);
        s1 = ef_multiply_halves(columns[1], ones, s1);
        s2 = ef_multiply_halves(columns[2], ones, s2);
        s3 = ef_multiply_halves(columns[3], ones, s3);
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

/* sums: of each two channels, a for four pixels, then b. */
static void scale_exactly(const ef_conv2d_layer *p, const int32_t *sums, const int32_t *scales, int32_t pair_words,
                          int8_t *out, int32_t pixels)
{
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, EF_ROUND_TWICE};
    for (int32_t c = 0; c < p->out_c; c++, sums += PIXELS, out++) {
        const int32_t *scale = scales + (c >> 1) * pair_words + (c & 1) * 2;
        for (int32_t i = 0; i < pixels; i++) out[i * p->out_c] = ef_scaled_exact(sums[i], scale, &range);
    }
}

/* One convolution's work: all that does not change from block to block. */
typedef struct {
    const ef_conv2d_layer *layer;
    const int32_t *stream;
    uint32_t *columns;
    int32_t *sums;
    int8_t *tiles;
    int32_t pair_words;
    block_facts facts;
} work;

static inline void begin_work(work *k, const ef_conv2d_layer *p, uint8_t *arena, const variant *v)
{
    int32_t even = (p->out_c + 1) & ~1;
    k->layer = p;
    k->stream = (const int32_t *)(p + 1);
    k->columns = (uint32_t *)(void *)(arena + p->scratch);
    k->sums = (int32_t *)(void *)(k->columns + p->k_quads * 8);
    k->tiles = (int8_t *)(k->sums + (v->exact ? even * PIXELS : 0));
    k->pair_words = 2 + p->k_quads * v->quad_words + 2 * v->scale_words;
    k->facts.stream_end = k->stream + (even >> 1) * k->pair_words;
    k->facts.columns_end = k->columns + p->k_quads * 8;
    k->facts.out_step = even;
    k->facts.k_quads = p->k_quads;
}

/* Columns to outputs: all channels of up to four pixels. */
static inline void finish_block(work *k, int8_t *out, int32_t pixels, const variant *v)
{
    int32_t sums_of_x[PIXELS], out_c = k->layer->out_c;
    if (v->int4) {
        sum_columns(k->columns, k->layer->k_quads, sums_of_x);
        k->facts.sums_of_x = sums_of_x;
    }
    if (v->exact) {
        v->block(k->columns, k->stream, k->sums, &k->facts);
        const int32_t *scales = k->stream + k->pair_words - 2 * v->scale_words;
        scale_exactly(k->layer, k->sums, scales, k->pair_words, out, pixels);
        return;
    }
    if (pixels == PIXELS && !(out_c & 1)) {
        v->block(k->columns, k->stream, out, &k->facts);
        return;
    }
    v->block(k->columns, k->stream, k->tiles, &k->facts);
    for (int32_t i = 0; i < pixels; i++) copy_bytes(out + i * out_c, k->tiles + i * k->facts.out_step, out_c);
}

/* 1x1 with stride 1: pixels lie one after the other, over all batches. */
static inline void convolve_pixels(work *k, const int8_t *in, int8_t *out, const variant *v)
{
    const ef_conv2d_layer *p = k->layer;
    int32_t step = p->in_c, pixels = p->batches * p->in_h * p->in_w;
    for (; pixels > 0; pixels -= PIXELS, in += PIXELS * step, out += PIXELS * p->out_c) {
        if (pixels >= PIXELS) {
            v->widen(in, in + step, in + 2 * step, in + 3 * step, k->columns, p->k_quads);
            finish_block(k, out, PIXELS, v);
        } else {
            const int8_t *second = pixels > 1 ? in + step : in, *third = pixels > 2 ? in + 2 * step : in;
            v->widen(in, second, third, in, k->columns, p->k_quads);
            finish_block(k, out, pixels, v);
        }
    }
}

static inline void convolve_picture(work *k, const int8_t *picture, int8_t *out, const variant *v)
{
    const ef_conv2d_layer *p = k->layer;
    int32_t tap_rows = p->dilation_w == 1 ? p->kernel_h : p->kernel_h * p->kernel_w;
    int32_t row_bytes = p->dilation_w == 1 ? p->kernel_w * p->in_c : p->in_c;
    place at = {-p->pad_top, -p->pad_left};
    for (int32_t left = p->out_h * p->out_w; left > 0; left -= PIXELS, out += PIXELS * p->out_c) {
        windows w;
        int32_t n = left < PIXELS ? left : PIXELS;
        find_windows(p, picture, &at, n, k->tiles, &w);
        if (p->dilation_w != 1)
            for (int32_t i = 0; i < PIXELS; i++) w.pitch[i] = p->in_c; /* a laid out tap after the other */
        widen_windows(&w, row_bytes, tap_rows, k->columns, v);
        finish_block(k, out, n, v);
    }
}

static inline __attribute__((always_inline)) void convolve(const void *layer, uint8_t *arena, const variant *v)
{
    const ef_conv2d_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    work k;
    begin_work(&k, p, arena, v);
    if (p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 && !(p->in_c & 3)) {
        convolve_pixels(&k, in, out, v);
        return;
    }
    for (int32_t n = p->batches; n > 0; n--) {
        convolve_picture(&k, in, out, v);
        in += p->in_h * p->in_w * p->in_c;
        out += p->out_h * p->out_w * p->out_c;
    }
}

enum { RELU_WORDS = 3, ANY_WORDS = 4, EXACT_WORDS = 2, QUAD_WORDS = 2, INT4_QUAD_WORDS = 1 };

#define CONV2D(name, block, widen, scale_words, quad_words, int4, exact)                  \
    EF_FAST_CODE void ef_conv2d_dsp_##name(const void *layer, uint8_t *arena)             \
    {                                                                                     \
        static const variant v = {block, widen, scale_words, quad_words, int4, exact};    \
        convolve(layer, arena, &v);                                                       \
    }

CONV2D(relu, ef_conv2d_block_relu, ef_widen4, RELU_WORDS, QUAD_WORDS, 0, 0)
CONV2D(any, ef_conv2d_block_any, ef_widen4, ANY_WORDS, QUAD_WORDS, 0, 0)
CONV2D(exact, ef_conv2d_block_sums, ef_widen4, EXACT_WORDS, QUAD_WORDS, 0, 1)
CONV2D(relu_halves, ef_conv2d_block_relu_halves, ef_widen4_halves, RELU_WORDS, QUAD_WORDS, 0, 0)
CONV2D(any_halves, ef_conv2d_block_any_halves, ef_widen4_halves, ANY_WORDS, QUAD_WORDS, 0, 0)
CONV2D(relu_int4, ef_conv2d_block_relu_int4, ef_widen4, RELU_WORDS, INT4_QUAD_WORDS, 1, 0)
CONV2D(any_int4, ef_conv2d_block_any_int4, ef_widen4, ANY_WORDS, INT4_QUAD_WORDS, 1, 0)
CONV2D(exact_int4, ef_conv2d_block_sums_int4, ef_widen4, EXACT_WORDS, INT4_QUAD_WORDS, 1, 1)
