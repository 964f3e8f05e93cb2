/* SPDX-License-Identifier: Apache-2.0
 *
 * Fully connected for Helium: four outputs at a time, 16 weights of each an instruction.
 *
 * Stream "helium": as conv2d's, the scale in each group of four outputs, per channel or not. No scratch: the last inputs
 * are read with the lanes behind them switched off.
 */
#include "../portable/fixed_point.h"
#include "scale.h"

enum { CHUNK = 16, GROUP = 4 };

/* Sums of four outputs over n inputs; *weights moves behind theirs. q0 inputs, q1 q2 weights; letp switches off the lanes
 * behind the last input. vmladava wants even registers for its sums. */
static inline int32x4_t multiply(const int8_t *in, int32_t n, const int8_t **weights)
{
    const int8_t *w = *weights;
    int32_t a = 0, b = 0, c = 0, d = 0;
    __asm__ volatile("dlstp.8 lr, %[n]\n"
                     "1: vldrb.8 q0, [%[in]], #16\n\t"
                     "vldrb.8 q1, [%[w]], #16\n\t"
                     "vmladava.s8 %[a], q0, q1\n\t"
                     "vldrb.8 q2, [%[w]], #16\n\t"
                     "vmladava.s8 %[b], q0, q2\n\t"
                     "vldrb.8 q1, [%[w]], #16\n\t"
                     "vmladava.s8 %[c], q0, q1\n\t"
                     "vldrb.8 q2, [%[w]], #16\n\t"
                     "vmladava.s8 %[d], q0, q2\n\t"
                     "letp lr, 1b"
                     : [a] "+Te"(a), [b] "+Te"(b), [c] "+Te"(c), [d] "+Te"(d), [in] "+r"(in), [w] "+r"(w)
                     : [n] "r"(n)
                     : "q0", "q1", "q2", "lr", "memory");
    *weights = w;
    return ef_four(a, b, c, d);
}

/* The low nibbles of 16 bytes are weights of one output, the high ones of another. */
static inline int32x4_t multiply_int4(const int8_t *in, int32_t n, const int8_t **weights)
{
    const int8_t *w = *weights;
    int32_t a = 0, b = 0, c = 0, d = 0;
    for (; n > 0; n -= CHUNK, in += CHUNK, w += GROUP * CHUNK / 2) {
        int8x16_t x = vldrbq_z_s8(in, vctp8q((uint32_t)n)), ab = vldrbq_s8(w), cd = vldrbq_s8(w + CHUNK);
        a = vmladavaq_s8(a, x, vshrq_n_s8(vshlq_n_s8(ab, 4), 4));
        b = vmladavaq_s8(b, x, vshrq_n_s8(ab, 4));
        c = vmladavaq_s8(c, x, vshrq_n_s8(vshlq_n_s8(cd, 4), 4));
        d = vmladavaq_s8(d, x, vshrq_n_s8(cd, 4));
    }
    *weights = w;
    return ef_four(a, b, c, d);
}

/* Rounded once, halves up; lane by lane, for the products need 64 bits. */
EF_FAST_CODE static int32x4_t scale_once(int32x4_t sum, const int32_t *group, const ef_exact_range *range)
{
    int32_t lanes[EF_LANES];
    vstrwq_s32(lanes, vaddq_s32(sum, vldrwq_s32(group)));
    for (int32_t i = 0; i < EF_LANES; i++) lanes[i] = ef_scaled_once(lanes[i], group[4 + i], group[8 + i]);
    return ef_clamp4(vaddq_n_s32(vldrwq_s32(lanes), range->out_zero), range->act_min, range->act_max);
}

static inline __attribute__((always_inline)) void connect(const void *layer, uint8_t *arena, ef_form form, int int4)
{
    const ef_fully_connected_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max};
    const int once = form == EF_EXACT && p->rounding == EF_ROUND_ONCE;
    for (int32_t row = p->rows; row > 0; row--, in += p->in_n, out += p->out_n) {
        const int32_t *group = (const int32_t *)(p + 1);
        for (int32_t i = 0; i < p->out_n; i += GROUP) {
            const int8_t *w = (const int8_t *)(group + ef_group_words(form));
            int32x4_t sum = int4 ? multiply_int4(in, p->in_n, &w) : multiply(in, p->in_n, &w);
            int32x4_t y = once ? scale_once(sum, group, &range) : ef_scale4(sum, group, form, &range);
            vstrbq_p_s32(out + i, y, ef_first(p->out_n - i));
            group = (const int32_t *)(const void *)w;
        }
    }
}

#define FULLY_CONNECTED(name, form, int4)                                                    \
    EF_FAST_CODE void ef_fully_connected_helium_##name(const void *layer, uint8_t *arena)    \
    {                                                                                        \
        connect(layer, arena, form, int4);                                                   \
    }

FULLY_CONNECTED(relu, EF_RELU, 0)
FULLY_CONNECTED(any, EF_ANY, 0)
FULLY_CONNECTED(exact, EF_EXACT, 0)
FULLY_CONNECTED(relu_int4, EF_RELU, 1)
FULLY_CONNECTED(any_int4, EF_ANY, 1)
FULLY_CONNECTED(exact_int4, EF_EXACT, 1)
