/* SPDX-License-Identifier: Apache-2.0
 *
 * Depthwise 3x3 for Helium: strides 1 and 2 (the same on both axes), no dilation, multiplier 1; with stride 2 at most
 * MOST_COLUMNS output columns. A channel's input, with its padding, is laid out as a plane of bytes, a chunk of rows at a
 * time, then the inner loop (depthwise_3x3_rows.S) goes over it. The stream is the portable one.
 *
 * Scratch: PLANE_ROWS rows of the plane: for stride 1 four more bytes than output columns, rounded up to fours; for
 * stride 2 PITCH bytes, even columns from 0, odd ones from ODD_COLUMNS on.
 */
#include "../portable/memory.h"
#include "scale.h"

enum { PLANE_ROWS = 10, ODD_COLUMNS = 64, PITCH = 128, MOST_COLUMNS = 60 };

/* What the inner loop reads; the order stands in depthwise_3x3_rows.S. */
typedef struct {
    int32_t pitch, row_step, columns, rows, out_x_step, out_y_step;
} rows_facts;

typedef void (*rows_loop)(const int8_t *plane, const int32_t *channel, int8_t *out, const rows_facts *facts);

void ef_depthwise_3x3_rows_relu_s1(const int8_t *, const int32_t *, int8_t *, const rows_facts *);
void ef_depthwise_3x3_rows_relu_s2(const int8_t *, const int32_t *, int8_t *, const rows_facts *);
void ef_depthwise_3x3_rows_any_s1(const int8_t *, const int32_t *, int8_t *, const rows_facts *);
void ef_depthwise_3x3_rows_any_s2(const int8_t *, const int32_t *, int8_t *, const rows_facts *);

/* n > 0 bytes that lie step apart, one after the other. */
static inline void gather(const int8_t *in, int32_t step, uint32x4_t steps, int32_t n, int8_t *to)
{
    __asm__ volatile("dlstp.32 lr, %[n]\n"
                     "1: vldrb.s32 q0, [%[in], %q[steps]]\n\t"
                     "vstrb.32 q0, [%[to]], #4\n\t"
                     "add %[in], %[in], %[step]\n\t"
                     "letp lr, 1b"
                     : [in] "+r"(in), [to] "+l"(to) /* vstrb.32 wants one of r0 to r7 */
                     : [n] "r"(n), [steps] "w"(steps), [step] "r"(4 * step)
                     : "q0", "lr", "memory");
}

/* A row of the picture into the plane, whose padding is there already. */
static inline void put_row(const ef_depthwise_layer *p, const int8_t *in, int32_t stride, uint32x4_t steps, int8_t *to)
{
    if (stride == 1) {
        gather(in, p->in_x_step, steps, p->in_w, to + p->pad_left);
        return;
    }
    /* columns of the picture 0, 2, … and 1, 3, …: with padding on the left they change places */
    int32_t odd = p->pad_left & 1;
    gather(in, 2 * p->in_x_step, steps, (p->in_w + 1) >> 1, to + odd * ODD_COLUMNS);
    if (p->in_w > 1) gather(in + p->in_x_step, 2 * p->in_x_step, steps, p->in_w >> 1, to + (odd ? 1 : ODD_COLUMNS));
}

EF_FAST_CODE static inline void convolve_picture(const ef_depthwise_layer *p, const int8_t *in, int8_t *out,
                                                 int8_t *plane, rows_loop loop, int32_t stride,
                                                 int32_t channel_words)
{
    const int32_t *channel = (const int32_t *)(p + 1);
    int32_t pitch = stride == 1 ? (p->out_w + 4 + 3) & ~3 : PITCH, most = (PLANE_ROWS - 3) / stride + 1;
    uint32x4_t steps = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)(stride * p->in_x_step));
    rows_facts facts = {pitch, pitch * stride, p->out_w, 0, p->out_x_step, p->out_y_step};
    memset(plane, p->in_zero, (size_t)(PLANE_ROWS * pitch));
    for (int32_t c = 0; c < p->in_c; c++, channel += channel_words)
        for (int32_t first = 0; first < p->out_h; first += most) {
            int8_t *row = plane;
            int32_t y = first * stride - p->pad_top;
            facts.rows = p->out_h - first < most ? p->out_h - first : most;
            for (int32_t i = (facts.rows - 1) * stride + 3; i; i--, y++, row += pitch) {
                if (y >= 0 && y < p->in_h) put_row(p, in + y * p->in_y_step + c, stride, steps, row);
                else memset(row, p->in_zero, (size_t)pitch);
            }
            loop(plane, channel, out + first * p->out_y_step + c, &facts);
        }
}

static inline __attribute__((always_inline)) void convolve(const void *layer, uint8_t *arena, rows_loop loop,
                                                           int32_t stride, int32_t channel_words)
{
    const ef_depthwise_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    for (int32_t n = p->batches; n > 0; n--) {
        convolve_picture(p, in, out, (int8_t *)arena + p->scratch, loop, stride, channel_words);
        in += p->in_h * p->in_w * p->in_c;
        out += p->out_h * p->out_w * p->in_c;
    }
}

enum { RELU_CHANNEL_WORDS = 1 + 3 + 3, ANY_CHANNEL_WORDS = 1 + 4 + 3 };

#define DEPTHWISE(name, loop, stride, channel_words)                                    \
    EF_FAST_CODE void ef_depthwise_helium_##name(const void *layer, uint8_t *arena)     \
    {                                                                                   \
        convolve(layer, arena, loop, stride, channel_words);                            \
    }

DEPTHWISE(relu_3x3_s1, ef_depthwise_3x3_rows_relu_s1, 1, RELU_CHANNEL_WORDS)
DEPTHWISE(relu_3x3_s2, ef_depthwise_3x3_rows_relu_s2, 2, RELU_CHANNEL_WORDS)
DEPTHWISE(any_3x3_s1, ef_depthwise_3x3_rows_any_s1, 1, ANY_CHANNEL_WORDS)
DEPTHWISE(any_3x3_s2, ef_depthwise_3x3_rows_any_s2, 2, ANY_CHANNEL_WORDS)
