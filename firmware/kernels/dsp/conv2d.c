/* SPDX-License-Identifier: Apache-2.0
 *
 * conv2d for the Arm DSP extension: four pixels by all channels at a time. What lies under four windows becomes columns
 * of 16-bit pairs, then an inner loop goes through all channels (conv2d_blocks.S, where columns and streams are
 * described). Windows are read where they lie in the picture, at any address; only those that leave it, or have dilated
 * columns, are first laid out in the scratch.
 *
 * Scratch, in this order:
 *   columns     k_quads * 32 bytes
 *   leftovers   where a row's bytes do not go up in words: 16 bytes for each four of what is left of all rows
 *   sums        exact only: 16 bytes for each channel, out_c rounded up to even
 *   tiles       four windows laid out (none for 1x1 with stride 1 and in_c in fours); afterwards, in the same place, the
 *               outputs of blocks that are not written directly (fewer than four pixels, or an odd out_c)
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

/* Four windows: the first row of each, and the bytes from a row to the next one. */
typedef struct {
    const int8_t *row[PIXELS];
    int32_t pitch[PIXELS];
} windows;

typedef void (*block_loop)(const uint32_t *columns, const int32_t *stream, void *out, const block_facts *facts);
typedef uint32_t *(*widen_loop)(const windows *w, uint32_t *columns, int32_t words, int32_t rows);

void ef_conv2d_block_relu(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_any(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_sums(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_relu_halves(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_any_halves(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_relu_int4(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_any_int4(const uint32_t *, const int32_t *, void *, const block_facts *);
void ef_conv2d_block_sums_int4(const uint32_t *, const int32_t *, void *, const block_facts *);
uint32_t *ef_conv2d_widen(const windows *, uint32_t *, int32_t, int32_t);
uint32_t *ef_conv2d_widen_halves(const windows *, uint32_t *, int32_t, int32_t);

typedef struct work work;

/* What tells one variant from another. Loops are reached by pointers, so that a model links only those that it uses. */
typedef struct {
    widen_loop widen;
    block_loop block;
    void (*finish)(work *k, int8_t *out, int32_t pixels); /* columns to outputs */
    int16_t scale_words, quad_words;                      /* of a channel; of two channels' weights */
    int16_t exact;
} variant;

/* One convolution: all that does not change from block to block. */
struct work {
    const ef_conv2d_layer *layer;
    const variant *v;
    const int32_t *stream;
    uint32_t *columns;
    int8_t *leftovers;
    int32_t *sums;
    int8_t *tiles;
    int32_t pair_words;
    int32_t row_bytes, rows; /* of a window */
    block_facts facts;
};

static inline void copy_bytes(int8_t *to, const int8_t *from, int32_t n)
{
    for (; n >= 4; n -= 4, to += 4, from += 4) ef_store_word(to, ef_load_word(from));
    for (; n > 0; n--) *to++ = *from++;
}

static inline void fill_bytes(int8_t *to, int8_t value, int32_t n)
{
    uint32_t word = (uint8_t)value * 0x01010101u;
    for (; n >= 4; n -= 4, to += 4) ef_store_word(to, word);
    for (; n > 0; n--) *to++ = value;
}

static inline int32_t clipped(int32_t n, int32_t most)
{
    return n < 0 ? 0 : n > most ? most : n;
}

/* A window's bytes from (y, x) on, in order, the zero point where it lies outside; columns: kernel columns a time, 1 for
 * dilated ones. */
EF_FAST_CODE static void lay_out(const ef_conv2d_layer *p, const int8_t *picture, int32_t y, int32_t x,
                                 int32_t columns, int8_t *to)
{
    int32_t left = clipped(-x, columns), inside = clipped(p->in_w - x, columns) - left;
    int32_t step = p->in_c, row_bytes = columns * step, to_step = p->kernel_w * step;
    if (inside < 0) inside = 0;
    for (int32_t ky = p->kernel_h; ky; ky--, y += p->dilation_h, to += to_step) {
        if (y < 0 || y >= p->in_h || !inside) {
            fill_bytes(to, (int8_t)p->in_zero, row_bytes);
            continue;
        }
        int32_t before = left * step, there = inside * step;
        fill_bytes(to, (int8_t)p->in_zero, before);
        copy_bytes(to + before, picture + (y * p->in_w + x) * step + before, there);
        fill_bytes(to + before + there, (int8_t)p->in_zero, row_bytes - before - there);
    }
}

EF_FAST_CODE static void lay_out_dilated(const ef_conv2d_layer *p, const int8_t *picture, int32_t y, int32_t x,
                                         int8_t *to)
{
    for (int32_t kx = 0; kx < p->kernel_w; kx++, x += p->dilation_w, to += p->in_c) lay_out(p, picture, y, x, 1, to);
}

/* Where the next window begins in the picture, and the windows left in its row. */
typedef struct {
    int32_t y, x, left;
} place;

static inline int rows_inside(const ef_conv2d_layer *p, int32_t y)
{
    return y >= 0 && y + (p->kernel_h - 1) * p->dilation_h < p->in_h;
}

static inline void advance(const ef_conv2d_layer *p, place *at)
{
    at->x += p->stride_w;
    if (--at->left) return;
    at->left = p->out_w;
    at->x = -p->pad_left;
    at->y += p->stride_h;
}

/* Four neighbours that all lie inside, as most do. */
static inline int find_neighbours(const ef_conv2d_layer *p, const int8_t *picture, place *at, windows *w)
{
    if (at->left <= PIXELS || at->x < 0 || at->x + (PIXELS - 1) * p->stride_w + p->kernel_w > p->in_w ||
        p->dilation_w != 1 || !rows_inside(p, at->y))
        return 0;
    int32_t step = p->stride_w * p->in_c, pitch = p->dilation_h * p->in_w * p->in_c;
    const int8_t *row = picture + (at->y * p->in_w + at->x) * p->in_c;
    for (int32_t i = 0; i < PIXELS; i++, row += step) {
        w->row[i] = row;
        w->pitch[i] = pitch;
    }
    at->x += PIXELS * p->stride_w;
    at->left -= PIXELS;
    return 1;
}

/* n windows, wherever they lie; the others are the first one again. */
EF_FAST_CODE static void find_windows(const ef_conv2d_layer *p, const int8_t *picture, place *at, int32_t n,
                                      int8_t *tile, windows *w)
{
    int32_t row_bytes = p->kernel_w * p->in_c;
    for (int32_t i = 0; i < n; i++, advance(p, at)) {
        if (p->dilation_w == 1 && at->x >= 0 && at->x + p->kernel_w <= p->in_w && rows_inside(p, at->y)) {
            w->row[i] = picture + (at->y * p->in_w + at->x) * p->in_c;
            w->pitch[i] = p->dilation_h * p->in_w * p->in_c;
            continue;
        }
        if (p->dilation_w == 1) lay_out(p, picture, at->y, at->x, p->kernel_w, tile);
        else lay_out_dilated(p, picture, at->y, at->x, tile);
        w->row[i] = tile;
        w->pitch[i] = p->dilation_w == 1 ? row_bytes : p->in_c;
        tile += p->kernel_h * row_bytes;
    }
    for (; n < PIXELS; n++) {
        w->row[n] = w->row[0];
        w->pitch[n] = w->pitch[0];
    }
}

/* What is left of each row behind its whole words: rows become one row of each window, zeros up to a word behind it. */
EF_FAST_CODE static int32_t gather_leftovers(const work *k, windows *w)
{
    int32_t from = k->row_bytes & ~3, n = k->row_bytes & 3, bytes = (k->rows * n + 3) & ~3;
    int8_t *to = k->leftovers;
    for (int32_t i = 0; i < PIXELS; i++) {
        const int8_t *row = w->row[i] + from;
        w->row[i] = to;
        ef_store_word(to + bytes - 4, 0);
        for (int32_t y = k->rows; y; y--, row += w->pitch[i]) {
            *to++ = row[0];
            if (n > 1) *to++ = row[1];
            if (n > 2) *to++ = row[2];
        }
        to += bytes - k->rows * n;
    }
    return bytes >> 2;
}

/* Whole words of each row first, row after row, then what is left of each. */
static inline void widen_windows(const work *k, windows *w)
{
    uint32_t *columns = k->columns;
    int32_t words = k->row_bytes >> 2;
    if (words) columns = k->v->widen(w, columns, words, k->rows);
    if (k->row_bytes & 3) {
        words = gather_leftovers(k, w);
        k->v->widen(w, columns, words, 1);
    }
}

/* Bytes straight from the inner loop, or by way of the tiles where they do not lie as it writes them. */
EF_FAST_CODE static void finish_bytes(work *k, int8_t *out, int32_t pixels)
{
    int32_t out_c = k->layer->out_c;
    int direct = pixels == PIXELS && !(out_c & 1);
    k->v->block(k->columns, k->stream, direct ? out : k->tiles, &k->facts);
    if (direct) return;
    for (int32_t i = 0; i < pixels; i++) copy_bytes(out + i * out_c, k->tiles + i * k->facts.out_step, out_c);
}

/* The inner loop leaves sums: of each two channels, a for four pixels, then b. */
EF_FAST_CODE static void finish_exact(work *k, int8_t *out, int32_t pixels)
{
    const ef_conv2d_layer *p = k->layer;
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, EF_ROUND_TWICE};
    const int32_t *sums = k->sums, *scales = k->stream + k->pair_words - 2 * k->v->scale_words;
    k->v->block(k->columns, k->stream, k->sums, &k->facts);
    for (int32_t c = 0; c < p->out_c; c++, sums += PIXELS, out++) {
        const int32_t *scale = scales + (c >> 1) * k->pair_words + (c & 1) * 2;
        for (int32_t i = 0; i < pixels; i++) out[i * p->out_c] = ef_scaled_exact(sums[i], scale, &range);
    }
}

/* The sum of each pixel's columns: what int4's offset of 8 multiplies. */
EF_FAST_CODE static void sum_columns(const uint32_t *columns, int32_t k_quads, int32_t *sums)
{
    const uint32_t ones = 0x00010001;
    sums[0] = sums[1] = sums[2] = sums[3] = 0;
    for (int32_t i = k_quads * 2; i; i--, columns += PIXELS)
        for (int32_t j = 0; j < PIXELS; j++) sums[j] = ef_multiply_halves(columns[j], ones, sums[j]);
}

EF_FAST_CODE static void finish_int4(work *k, int8_t *out, int32_t pixels)
{
    int32_t sums_of_x[PIXELS];
    sum_columns(k->columns, k->layer->k_quads, sums_of_x);
    k->facts.sums_of_x = sums_of_x;
    finish_bytes(k, out, pixels);
}

EF_FAST_CODE static void finish_exact_int4(work *k, int8_t *out, int32_t pixels)
{
    int32_t sums_of_x[PIXELS];
    sum_columns(k->columns, k->layer->k_quads, sums_of_x);
    k->facts.sums_of_x = sums_of_x;
    finish_exact(k, out, pixels);
}

static inline void begin_work(work *k, const ef_conv2d_layer *p, uint8_t *arena, const variant *v)
{
    int32_t even = (p->out_c + 1) & ~1;
    k->layer = p;
    k->v = v;
    k->stream = (const int32_t *)(p + 1);
    k->rows = p->dilation_w == 1 ? p->kernel_h : p->kernel_h * p->kernel_w;
    k->row_bytes = p->dilation_w == 1 ? p->kernel_w * p->in_c : p->in_c;
    k->columns = (uint32_t *)(void *)(arena + p->scratch);
    k->leftovers = (int8_t *)(k->columns + p->k_quads * 8);
    k->sums = (int32_t *)(void *)(k->leftovers + PIXELS * ((k->rows * (k->row_bytes & 3) + 3) & ~3));
    k->tiles = (int8_t *)(k->sums + (v->exact ? even * PIXELS : 0));
    k->pair_words = 2 + p->k_quads * v->quad_words + 2 * v->scale_words;
    k->facts.stream_end = k->stream + (even >> 1) * k->pair_words;
    k->facts.columns_end = k->columns + p->k_quads * 8;
    k->facts.out_step = even;
    k->facts.k_quads = p->k_quads;
}

/* 1x1 with stride 1: pixels lie one after the other, over all batches. */
EF_FAST_CODE static void convolve_pixels(work *k, const int8_t *in, int8_t *out)
{
    int32_t step = k->layer->in_c, pixels = k->layer->batches * k->layer->in_h * k->layer->in_w;
    windows w = {{0}, {0}};
    for (; pixels > 0; pixels -= PIXELS, in += PIXELS * step, out += PIXELS * k->layer->out_c) {
        for (int32_t i = 0; i < PIXELS; i++) w.row[i] = in + (i < pixels ? i * step : 0);
        k->v->widen(&w, k->columns, k->layer->k_quads, 1);
        k->v->finish(k, out, pixels < PIXELS ? pixels : PIXELS);
    }
}

EF_FAST_CODE static void convolve_picture(work *k, const int8_t *picture, int8_t *out)
{
    const ef_conv2d_layer *p = k->layer;
    place at = {-p->pad_top, -p->pad_left, p->out_w};
    for (int32_t left = p->out_h * p->out_w; left > 0; left -= PIXELS, out += PIXELS * p->out_c) {
        windows w;
        int32_t n = left < PIXELS ? left : PIXELS;
        if (!find_neighbours(p, picture, &at, &w)) find_windows(p, picture, &at, n, k->tiles, &w);
        widen_windows(k, &w);
        k->v->finish(k, out, n);
    }
}

EF_FAST_CODE static void convolve(const void *layer, uint8_t *arena, const variant *v)
{
    const ef_conv2d_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    work k;
    begin_work(&k, p, arena, v);
    if (p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 && !(p->in_c & 3)) {
        convolve_pixels(&k, in, out);
        return;
    }
    for (int32_t n = p->batches; n > 0; n--) {
        convolve_picture(&k, in, out);
        in += p->in_h * p->in_w * p->in_c;
        out += p->out_h * p->out_w * p->out_c;
    }
}

enum { RELU_WORDS = 3, ANY_WORDS = 4, EXACT_WORDS = 2, QUAD_WORDS = 2, INT4_QUAD_WORDS = 1 };

#define CONV2D(name, widen, block, finish, scale_words, quad_words, exact)                            \
    EF_FAST_CODE void ef_conv2d_dsp_##name(const void *layer, uint8_t *arena)                         \
    {                                                                                                 \
        static const variant v = {widen, block, finish, scale_words, quad_words, exact};              \
        convolve(layer, arena, &v);                                                                   \
    }

#define PLAIN ef_conv2d_widen
#define HALVES ef_conv2d_widen_halves

CONV2D(relu, PLAIN, ef_conv2d_block_relu, finish_bytes, RELU_WORDS, QUAD_WORDS, 0)
CONV2D(any, PLAIN, ef_conv2d_block_any, finish_bytes, ANY_WORDS, QUAD_WORDS, 0)
CONV2D(exact, PLAIN, ef_conv2d_block_sums, finish_exact, EXACT_WORDS, QUAD_WORDS, 1)
CONV2D(relu_halves, HALVES, ef_conv2d_block_relu_halves, finish_bytes, RELU_WORDS - 1, QUAD_WORDS, 0)
CONV2D(any_halves, HALVES, ef_conv2d_block_any_halves, finish_bytes, ANY_WORDS - 1, QUAD_WORDS, 0)
CONV2D(relu_int4, PLAIN, ef_conv2d_block_relu_int4, finish_int4, RELU_WORDS, INT4_QUAD_WORDS, 0)
CONV2D(any_int4, PLAIN, ef_conv2d_block_any_int4, finish_int4, ANY_WORDS, INT4_QUAD_WORDS, 0)
CONV2D(exact_int4, PLAIN, ef_conv2d_block_sums_int4, finish_exact_int4, EXACT_WORDS, INT4_QUAD_WORDS, 1)
