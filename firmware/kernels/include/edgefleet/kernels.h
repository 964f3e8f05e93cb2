/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels, and how each finds its layer in a model blob.
 *
 * Every kernel has one signature: the layer's parameters (somewhere in a blob, aligned to 8 bytes) and the arena
 * (aligned to 16 bytes). The parameters begin with the arena offsets of inputs, outputs and scratch, in that order, each
 * a uint32_t and a multiple of 16; geometry and arithmetic follow, then the stream that the kernel reads front to back.
 * Nothing is allocated, nothing is kept between calls: kernels are re-entrant.
 *
 * A kernel variant named "conv2d/dsp/relu" is the function ef_conv2d_dsp_relu.
 */
#ifndef EDGEFLEET_KERNELS_H
#define EDGEFLEET_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*ef_kernel)(const void *layer, uint8_t *arena);

/* Where hot code goes: -DEF_FAST_CODE_SECTION=.itcm puts the kernels, C and assembler, into that section, to run from
 * tightly coupled memory; -DEF_FAST_CODE='__attribute__((...))' says it for C alone. */
#ifndef EF_FAST_CODE
#ifdef EF_FAST_CODE_SECTION
#define EF_QUOTED(name) #name
#define EF_SECTION(name) __attribute__((section(EF_QUOTED(name))))
#define EF_FAST_CODE EF_SECTION(EF_FAST_CODE_SECTION)
#else
#define EF_FAST_CODE
#endif
#endif

/* Three ways from a 32-bit accumulator to int8, chosen for a layer when the code is generated:
 *   relu    y = ssat8((((acc << l) * m >> 32) + c) >> 15)                 stream words m, c, l
 *   any     the same + (acc < 0 ? k : 0) before the last shift           stream words k, m, c, l
 *   exact   the reference's own rounding (see rounding), + out_zero, clamped to [act_min, act_max]
 *                                                                        stream words multiplier, shift
 * The generator proves the first two equal to the reference for every accumulator that the layer can reach. */
enum { EF_SCALE_FRACTION_BITS = 15 };
enum { EF_ROUND_TWICE = 2, EF_ROUND_ONCE = 1 };

/* 2-D convolution. Stream "pairs": for channels a and b = a + 1 (b repeats a where out_c is odd)
 *   int32_t bias[2]                     zero point of the input folded in
 *   k_quads x 8 bytes                   a0 b0 a2 b2 a1 b1 a3 b3 of each four weights
 *   int32_t scale[2][3 | 4 | 2]         as above
 * The weights of a channel: of each kernel row (kernel_w * in_c weights) first the whole groups of four, row after row;
 * then what is left of each row, row after row; then zeros up to k_quads * 4. With a dilation in x, a "row" is one tap
 * (in_c weights). "pairs-int4" is the same with two weights a byte and in natural order: 4 bytes a quad, each
 * (a + 8) | (b & 15) << 4: a has an offset of 8, b is two's complement. The dsp set's "halves" are described in
 * dsp/conv2d_blocks.S (their scales have c << 8 | l in one word), the helium set's streams in helium/scale.h. */
typedef struct {
    uint32_t in, out, scratch;
    int16_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
    int16_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int16_t in_zero, out_zero, act_min, act_max, rounding;
    int32_t k_quads;
} ef_conv2d_layer;

/* Depthwise convolution; out_c = in_c * multiplier. Steps are in elements, so that the axes may change places.
 * Stream: for each output channel  int32_t bias, scale[3 | 4 | 2], then the weights: for each kernel row kernel_w bytes,
 * padded to a multiple of 4 bytes at the end of the channel. The 3x3 variants of the dsp set write each row as
 * w0 w1 w1 w2 (one smlad pair and its overlap) instead, and c << 8 | l of the scale in one word. */
typedef struct {
    uint32_t in, out, scratch;
    int16_t batches, in_h, in_w, in_c, out_h, out_w, multiplier;
    int16_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
    int16_t in_zero, out_zero, act_min, act_max, rounding;
    int32_t in_x_step, in_y_step, out_x_step, out_y_step;
} ef_depthwise_layer;

/* Fully connected, rows x in_n -> rows x out_n. Stream: for each four outputs (the last repeats where out_n % 4)
 *   int32_t bias[4]; k_quads x 16 bytes: four weights of each output; int32_t scale[4][words] where per_channel.
 * k_quads is even. One scale for all stands in the layer where not per_channel (k, m, c, l; for exact: m = multiplier,
 * l = shift). "int4": 8 bytes a quad, 4 for outputs 0 and 1, then 4 for outputs 2 and 3, as in "pairs-int4". */
typedef struct {
    uint32_t in, out, scratch;
    int32_t rows, in_n, out_n, k_quads;
    int16_t per_channel, out_zero, act_min, act_max, rounding, unused;
    int32_t k, m, c, l;
} ef_fully_connected_layer;

/* Average and max pool. */
typedef struct {
    uint32_t in, out, scratch;
    int16_t batches, in_h, in_w, channels, out_h, out_w;
    int16_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
    int16_t act_min, act_max;
} ef_pool_layer;

/* Mean: the axes are kept, reduced, kept, reduced, kept in turn (1 where there is none); offset = -count * in_zero. */
typedef struct {
    uint32_t in, out, scratch;
    int32_t shape[5];
    int32_t offset, out_zero, multiplier, shift;
} ef_mean_layer;

/* add, sub, mul.
 *   exact: the reference's arithmetic, with broadcasting: rows of shape[3] elements; steps in elements, 0 along a
 *          broadcast axis; those of the last axis are 0 or 1. add/sub: left shift 20, three multipliers, a's and b's at
 *          most 1; mul: out_* alone. A constant operand (1: a, 2: b) follows the layer instead of lying in the arena.
 *   flat:  add and sub of equal shapes, n elements: ssat8((c + (a1 * a >> 8) + (a2 * b >> 8)) >> 20), proved equal. */
typedef struct {
    uint32_t a, b, out, scratch;
    int32_t shape[4], a_step[4], b_step[4];
    int16_t constant, a_zero, b_zero, out_zero, act_min, act_max;
    int32_t a_multiplier, a_shift, b_multiplier, b_shift, out_multiplier, out_shift;
} ef_binary_layer;
typedef struct {
    uint32_t a, b, out, scratch;
    int32_t n, a1, a2, c;
} ef_add_flat_layer;

/* Any int8 function of one int8: out[i] = table[(uint8_t)in[i]]; int8_t table[256] follows. */
typedef struct {
    uint32_t in, out, scratch;
    int32_t n;
} ef_table_layer;

/* Softmax over rows of n. */
typedef struct {
    uint32_t in, out, scratch;
    int32_t rows, n, multiplier, shift, diff_min;
} ef_softmax_layer;

/* Float ends: quantize: out = clamp(round(in / scale) + zero); dequantize: out = (in - zero) * scale. */
typedef struct {
    uint32_t in, out, scratch;
    int32_t n, zero;
    float scale;
} ef_float_layer;

/* Moves: transpose, strided slice, split, concat, pad, state. Rows of `bytes` bytes go from in_start + sum(i * in_step)
 * to out_start + sum(i * out_step); starts and steps in bytes. */
typedef struct {
    uint32_t in, out, scratch;
    int32_t bytes;
    int32_t shape[5], in_step[5], out_step[5], in_start, out_start;
} ef_move_layer;

/* n bytes of value, at out + start. */
typedef struct {
    uint32_t out, scratch;
    int32_t start, n, value;
} ef_fill_layer;

/* n constant bytes, which follow, go to out + start. */
typedef struct {
    uint32_t out, scratch;
    int32_t start, n;
} ef_constant_layer;

/* Nearest neighbour: uint16_t source row of each output row, then source column of each output column, follow. */
typedef struct {
    uint32_t in, out, scratch;
    int16_t batches, in_h, in_w, channels, out_h, out_w;
} ef_resize_nearest_layer;

#ifdef __cplusplus
}
#endif
#endif
