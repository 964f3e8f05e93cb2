/* SPDX-License-Identifier: Apache-2.0
 *
 * Depthwise for Helium, of any kernel, stride, dilation and multiplier: one channel at a time, four neighbours of an
 * output row in the lanes of a vector, a weight in a register (vmla by a scalar: two instructions for four products).
 *
 * A channel's input, with its padding, is first laid out as a plane of bytes; where all rows fit one chunk, it has been
 * read before the output is written. The stream is the portable one.
 *
 * Scratch: a plane, row_bytes for each of its rows.
 */
#include "../portable/memory.h"
#include "scale.h"

enum { PLANE_ROWS = 10 };

/* A channel's scale in all lanes. */
typedef struct {
    int32x4_t bias, m, c, k;
    int32_t l;
    ef_exact_range range;
} scaling;

/* What follows from a layer's geometry. */
typedef struct {
    const ef_depthwise_layer *layer;
    int32_t chunk_rows; /* output rows a time */
    int32_t row_bytes;  /* of a plane: what the outputs of a row, rounded up to fours, read */
} shape;

static inline shape shape_of(const ef_depthwise_layer *p)
{
    int32_t extent = (p->kernel_h - 1) * p->dilation_h + 1, columns = (p->out_w + 3) & ~3;
    shape s = {p, extent < PLANE_ROWS ? (PLANE_ROWS - extent) / p->stride_h + 1 : 1,
               ((columns - 1) * p->stride_w + (p->kernel_w - 1) * p->dilation_w + 4) & ~3};
    if (s.chunk_rows > p->out_h) s.chunk_rows = p->out_h;
    return s;
}

/* Offsets 0, step, 2 step, 3 step. */
static inline uint32x4_t steps_of(int32_t step)
{
    return vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)step);
}

/* One row of the picture (NULL: padding). Four pixels a time: pixels lie step bytes apart. */
static inline void put_row(const shape *s, const int8_t *in, int32_t step, uint32x4_t steps, int8_t *to)
{
    const ef_depthwise_layer *p = s->layer;
    memset(to, p->in_zero, (size_t)s->row_bytes);
    if (!in) return;
    to += p->pad_left;
    int32_t n = s->row_bytes - p->pad_left;
    if (n > p->in_w) n = p->in_w;
    for (; n > 0; n -= EF_LANES, to += EF_LANES, in += EF_LANES * step) {
        mve_pred16_t some = ef_first(n);
        vstrbq_p_s32(to, vldrbq_gather_offset_z_s32(in, steps, some), some);
    }
}

EF_FAST_CODE static void put_rows(const shape *s, const int8_t *in, int32_t y, int32_t out_rows, int8_t *to)
{
    const ef_depthwise_layer *p = s->layer;
    int32_t rows = (out_rows - 1) * p->stride_h + (p->kernel_h - 1) * p->dilation_h + 1, step = p->in_x_step;
    uint32x4_t steps = steps_of(step);
    for (; rows > 0; rows--, y++, to += s->row_bytes)
        put_row(s, y < 0 || y >= p->in_h ? 0 : in + y * p->in_y_step, step, steps, to);
}

static inline scaling scaling_of(const ef_depthwise_layer *p, const int32_t *channel, ef_form form)
{
    scaling s;
    const int32_t *q = form == EF_ANY ? channel + 2 : channel + 1;
    s.bias = vdupq_n_s32(channel[0]);
    s.k = vdupq_n_s32(form == EF_ANY ? channel[1] : 0);
    s.m = vdupq_n_s32(q[0]);
    s.c = vdupq_n_s32(q[1]); /* exact: the shift */
    s.l = form == EF_EXACT ? 0 : q[2];
    s.range = (ef_exact_range){p->out_zero, p->act_min, p->act_max};
    return s;
}

/* Four int8 in the lowest bytes of the lanes. */
static inline int32x4_t scale(int32x4_t sum, const scaling *s, ef_form form)
{
    if (form == EF_EXACT) return ef_scale4_exactly(sum, s->m, s->c, &s->range);
    sum = vshlq_r_s32(sum, s->l);
    int32x4_t y = vaddq_s32(vmulhq_s32(sum, s->m), s->c);
    if (form == EF_ANY) y = vaddq_s32(y, vandq_s32(s->k, vshrq_n_s32(sum, 31)));
    /* not vqshrnb, which some assemblers encode as its rounding sister */
    return ef_clamp4(vshrq_n_s32(y, EF_SCALE_FRACTION_BITS), INT8_MIN, INT8_MAX);
}

/* Four inputs of a row that belong to four neighbouring outputs. */
static inline int32x4_t inputs(const int8_t *row, int32_t stride, uint32x4_t strides)
{
    return stride == 1 ? vldrbq_s32(row) : vldrbq_gather_offset_s32(row, strides);
}

/* A row of outputs, kernels of any size. */
static inline void put_outputs(const shape *s, const int8_t *row, int8_t *out, const int8_t *weights, const scaling *q,
                               ef_form form)
{
    const ef_depthwise_layer *p = s->layer;
    uint32x4_t strides = steps_of(p->stride_w), out_steps = steps_of(p->out_x_step);
    for (int32_t n = p->out_w; n > 0; n -= EF_LANES, row += EF_LANES * p->stride_w, out += EF_LANES * p->out_x_step) {
        const int8_t *w = weights, *from = row;
        int32x4_t sum = q->bias;
        for (int32_t ky = p->kernel_h; ky; ky--, from += p->dilation_h * s->row_bytes) {
            const int8_t *x = from;
            for (int32_t kx = p->kernel_w; kx; kx--, x += p->dilation_w)
                sum = vmlaq_n_s32(sum, inputs(x, p->stride_w, strides), *w++);
        }
        vstrbq_scatter_offset_p_s32(out, out_steps, scale(sum, q, form), ef_first(n));
    }
}

/* The same for 3x3 without dilation; stride is a constant. */
static inline __attribute__((always_inline)) void put_outputs_3x3(const shape *s, const int8_t *row, int8_t *out,
                                                                  const int8_t *w, const scaling *q, int32_t stride,
                                                                  ef_form form)
{
    const ef_depthwise_layer *p = s->layer;
    uint32x4_t strides = steps_of(stride), out_steps = steps_of(p->out_x_step);
    const int32_t pitch = s->row_bytes, out_step = EF_LANES * p->out_x_step;
    const int32_t w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4], w5 = w[5], w6 = w[6], w7 = w[7], w8 = w[8];
    for (int32_t n = p->out_w; n > 0; n -= EF_LANES, row += EF_LANES * stride, out += out_step) {
        const int8_t *x = row;
        int32x4_t sum = vmlaq_n_s32(q->bias, inputs(x, stride, strides), w0);
        sum = vmlaq_n_s32(sum, inputs(x + 1, stride, strides), w1);
        sum = vmlaq_n_s32(sum, inputs(x + 2, stride, strides), w2);
        x += pitch;
        sum = vmlaq_n_s32(sum, inputs(x, stride, strides), w3);
        sum = vmlaq_n_s32(sum, inputs(x + 1, stride, strides), w4);
        sum = vmlaq_n_s32(sum, inputs(x + 2, stride, strides), w5);
        x += pitch;
        sum = vmlaq_n_s32(sum, inputs(x, stride, strides), w6);
        sum = vmlaq_n_s32(sum, inputs(x + 1, stride, strides), w7);
        sum = vmlaq_n_s32(sum, inputs(x + 2, stride, strides), w8);
        vstrbq_scatter_offset_p_s32(out, out_steps, scale(sum, q, form), ef_first(n));
    }
}

static inline __attribute__((always_inline)) void put_channel(const shape *s, const int8_t *plane, int8_t *out,
                                                              int32_t rows, const int32_t *channel, ef_form form)
{
    const ef_depthwise_layer *p = s->layer;
    const int8_t *weights = (const int8_t *)(channel + (form == EF_RELU ? 4 : form == EF_ANY ? 5 : 3));
    const scaling q = scaling_of(p, channel, form);
    int usual = p->kernel_h == 3 && p->kernel_w == 3 && p->dilation_h == 1 && p->dilation_w == 1 && form != EF_EXACT;
    for (; rows > 0; rows--, plane += p->stride_h * s->row_bytes, out += p->out_y_step) {
        if (usual && p->stride_w == 1) put_outputs_3x3(s, plane, out, weights, &q, 1, form);
        else if (usual && p->stride_w == 2) put_outputs_3x3(s, plane, out, weights, &q, 2, form);
        else put_outputs(s, plane, out, weights, &q, form);
    }
}

static inline __attribute__((always_inline)) void convolve_picture(const shape *s, const int8_t *in, int8_t *out,
                                                                   int8_t *plane, ef_form form)
{
    const ef_depthwise_layer *p = s->layer;
    const int32_t *channel = (const int32_t *)(p + 1);
    int32_t channel_words = (form == EF_RELU ? 4 : form == EF_ANY ? 5 : 3) + ((p->kernel_h * p->kernel_w + 3) >> 2);
    for (int32_t c = 0; c < p->in_c; c++, channel += p->multiplier * channel_words, out += p->multiplier)
        for (int32_t y = 0; y < p->out_h; y += s->chunk_rows) {
            int32_t rows = p->out_h - y < s->chunk_rows ? p->out_h - y : s->chunk_rows;
            put_rows(s, in + c, y * p->stride_h - p->pad_top, rows, plane);
            for (int32_t i = 0; i < p->multiplier; i++)
                put_channel(s, plane, out + y * p->out_y_step + i, rows, channel + i * channel_words, form);
        }
}

static inline __attribute__((always_inline)) void convolve(const void *layer, uint8_t *arena, ef_form form)
{
    const ef_depthwise_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    const shape s = shape_of(p);
    for (int32_t n = p->batches; n > 0; n--) {
        convolve_picture(&s, in, out, (int8_t *)arena + p->scratch, form);
        in += p->in_h * p->in_w * p->in_c;
        out += p->out_h * p->out_w * p->in_c * p->multiplier;
    }
}

EF_FAST_CODE void ef_depthwise_helium_relu(const void *layer, uint8_t *arena) { convolve(layer, arena, EF_RELU); }

EF_FAST_CODE void ef_depthwise_helium_any(const void *layer, uint8_t *arena) { convolve(layer, arena, EF_ANY); }

EF_FAST_CODE void ef_depthwise_helium_exact(const void *layer, uint8_t *arena) { convolve(layer, arena, EF_EXACT); }
