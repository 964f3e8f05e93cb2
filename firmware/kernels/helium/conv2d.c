/* SPDX-License-Identifier: Apache-2.0
 *
 * conv2d for Helium: two pixels by four channels at a time, 16 weights of each an instruction (vmladava).
 *
 * Stream "helium": for each four channels (the last one repeats) the words of scale.h, then for each 16 of k (zeros
 * behind the last) 16 bytes of each channel; int4: 16 bytes of channels 0 (low nibbles) and 1 (high ones), then 16 of
 * channels 2 and 3. k is in the order of the picture: kernel row, kernel column, channel.
 *
 * Scratch: the bytes under two windows, each rounded up to 16; none for 1x1 with stride 1 and in_c in sixteens. Behind
 * the bytes of a window may lie anything: the weights there are 0.
 */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("omit-frame-pointer") /* the inner loop needs its register */
#endif
#include "../portable/memory.h"
#include "scale.h"

enum { CHUNK = 16, GROUP = 4 };

/* Sums of four channels for two pixels. */
typedef struct {
    int32x4_t first, second;
} sums;

/* Registers: q0 q1 inputs of the two pixels, q2 q3 weights. vmladava wants even registers for its sums: all eight. */
#define CHUNKS_BEGIN "1: vldrb.8 q0, [%[p]], #16\n\t" "vldrb.8 q1, [%[q]], #16\n\t"
#define CHUNKS_END "subs %[n], #1\n\t" "bne 1b"
#define CHANNEL(weights, sum) \
    "vmladava.s8 %[a" #sum "], q0, " #weights "\n\t" "vmladava.s8 %[b" #sum "], q1, " #weights "\n\t"
#define INT8_CHANNEL(weights, sum) "vldrb.8 " #weights ", [%[w]], #16\n\t" CHANNEL(weights, sum)
#define INT4_CHANNELS(low, high) \
    "vldrb.8 q2, [%[w]], #16\n\t" "vshl.i8 q3, q2, #4\n\t" "vshr.s8 q2, q2, #4\n\t" "vshr.s8 q3, q3, #4\n\t" \
    CHANNEL(q3, low) CHANNEL(q2, high)
#define INT8_CHUNKS \
    CHUNKS_BEGIN INT8_CHANNEL(q2, 0) INT8_CHANNEL(q3, 1) INT8_CHANNEL(q2, 2) INT8_CHANNEL(q3, 3) CHUNKS_END
#define INT4_CHUNKS CHUNKS_BEGIN INT4_CHANNELS(0, 1) INT4_CHANNELS(2, 3) CHUNKS_END

static inline sums multiply(const int8_t *p, const int8_t *q, const int8_t **weights, int32_t chunks, int int4)
{
    int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
    const int8_t *w = *weights;
#define OPERANDS                                                                                                      \
    [a0] "+Te"(a0), [a1] "+Te"(a1), [a2] "+Te"(a2), [a3] "+Te"(a3), [b0] "+Te"(b0), [b1] "+Te"(b1), [b2] "+Te"(b2),  \
        [b3] "+Te"(b3), [p] "+r"(p), [q] "+r"(q), [w] "+r"(w), [n] "+r"(chunks)
    if (int4) __asm__ volatile(INT4_CHUNKS : OPERANDS : : "q0", "q1", "q2", "q3", "cc", "memory");
    else __asm__ volatile(INT8_CHUNKS : OPERANDS : : "q0", "q1", "q2", "q3", "cc", "memory");
    *weights = w;
    return (sums){ef_four(a0, a1, a2, a3), ef_four(b0, b1, b2, b3)};
}

/* What does not change from pixel to pixel. */
typedef struct {
    const ef_conv2d_layer *layer;
    const int32_t *stream;
    int32_t chunks;
    ef_exact_range range;
} work;

/* All channels of one pixel, or of two (second: its output, else NULL). */
static inline __attribute__((always_inline)) void convolve_two(const work *k, const int8_t *p, const int8_t *q,
                                                                int8_t *out, int8_t *second, ef_form form, int int4)
{
    const int32_t *group = k->stream;
    for (int32_t left = k->layer->out_c; left > 0; left -= GROUP, out += GROUP) {
        const int8_t *w = (const int8_t *)(group + ef_group_words(form));
        mve_pred16_t some = ef_first(left);
        sums s = multiply(p, q, &w, k->chunks, int4);
        vstrbq_p_s32(out, ef_scale4(s.first, group, form, &k->range), some);
        if (second) {
            vstrbq_p_s32(second, ef_scale4(s.second, group, form, &k->range), some);
            second += GROUP;
        }
        group = (const int32_t *)(const void *)w;
    }
}

static inline void copy_bytes(int8_t *to, const int8_t *from, int32_t n)
{
    for (; n > 0; n -= CHUNK, to += CHUNK, from += CHUNK) {
        mve_pred16_t some = vctp8q((uint32_t)n);
        vstrbq_p_s8(to, vldrbq_z_s8(from, some), some);
    }
}

static inline void fill_bytes(int8_t *to, int8_t value, int32_t n)
{
    for (; n > 0; n -= CHUNK, to += CHUNK) vstrbq_p_s8(to, vdupq_n_s8(value), vctp8q((uint32_t)n));
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
    int32_t before = left * step, there = inside * step;
    for (int32_t ky = p->kernel_h; ky; ky--, y += p->dilation_h, to += to_step) {
        if (y < 0 || y >= p->in_h || !inside) {
            fill_bytes(to, (int8_t)p->in_zero, row_bytes);
            continue;
        }
        const int8_t *row = picture + (y * p->in_w + x) * step;
        if (row_bytes == there) {
            copy_bytes(to, row, row_bytes);
            continue;
        }
        fill_bytes(to, (int8_t)p->in_zero, before);
        copy_bytes(to + before, row + before, there);
        fill_bytes(to + before + there, (int8_t)p->in_zero, row_bytes - before - there);
    }
}

/* Where the next window begins in the picture, and the windows left in its row. */
typedef struct {
    int32_t y, x, left;
} place;

static inline void lay_out_next(const ef_conv2d_layer *p, const int8_t *picture, place *at, int8_t *to)
{
    if (p->dilation_w == 1) lay_out(p, picture, at->y, at->x, p->kernel_w, to);
    else
        for (int32_t kx = 0; kx < p->kernel_w; kx++)
            lay_out(p, picture, at->y, at->x + kx * p->dilation_w, 1, to + kx * p->in_c);
    at->x += p->stride_w;
    if (--at->left) return;
    at->left = p->out_w;
    at->x = -p->pad_left;
    at->y += p->stride_h;
}

static inline __attribute__((always_inline)) void convolve_picture(const work *k, const int8_t *picture, int8_t *out,
                                                                    int8_t *windows, ef_form form, int int4)
{
    const ef_conv2d_layer *p = k->layer;
    int8_t *second = windows + k->chunks * CHUNK;
    place at = {-p->pad_top, -p->pad_left, p->out_w};
    for (int32_t left = p->out_h * p->out_w; left > 0; left -= 2, out += 2 * p->out_c) {
        lay_out_next(p, picture, &at, windows);
        if (left > 1) lay_out_next(p, picture, &at, second);
        convolve_two(k, windows, second, out, left > 1 ? out + p->out_c : 0, form, int4);
    }
}

/* 1x1 with stride 1: pixels lie one after the other, over all batches. */
static inline __attribute__((always_inline)) void convolve_pixels(const work *k, const int8_t *in, int8_t *out,
                                                                   ef_form form, int int4)
{
    int32_t in_c = k->layer->in_c, out_c = k->layer->out_c;
    int32_t pixels = k->layer->batches * k->layer->in_h * k->layer->in_w;
    for (; pixels > 0; pixels -= 2, in += 2 * in_c, out += 2 * out_c)
        convolve_two(k, in, pixels > 1 ? in + in_c : in, out, pixels > 1 ? out + out_c : 0, form, int4);
}

static inline __attribute__((always_inline)) void convolve(const void *layer, uint8_t *arena, ef_form form, int int4)
{
    const ef_conv2d_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out, *windows = (int8_t *)arena + p->scratch;
    work k = {p, (const int32_t *)(p + 1), (p->k_quads + 3) >> 2, {p->out_zero, p->act_min, p->act_max}};
    if (p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1 && !(p->in_c & (CHUNK - 1))) {
        convolve_pixels(&k, in, out, form, int4);
        return;
    }
    for (int32_t n = p->batches; n > 0; n--) {
        convolve_picture(&k, in, out, windows, form, int4);
        in += p->in_h * p->in_w * p->in_c;
        out += p->out_h * p->out_w * p->out_c;
    }
}

#define CONV2D(name, form, int4)                                                     \
    EF_FAST_CODE void ef_conv2d_helium_##name(const void *layer, uint8_t *arena)     \
    {                                                                                \
        convolve(layer, arena, form, int4);                                          \
    }

CONV2D(relu, EF_RELU, 0)
CONV2D(any, EF_ANY, 0)
CONV2D(exact, EF_EXACT, 0)
CONV2D(relu_int4, EF_RELU, 1)
CONV2D(any_int4, EF_ANY, 1)
CONV2D(exact_int4, EF_EXACT, 1)
