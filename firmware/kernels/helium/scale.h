/* SPDX-License-Identifier: Apache-2.0
 *
 * From four accumulators to four int8, in the three forms of kernels.h. Streams of the helium set have the words of four
 * channels side by side: bias x4, then
 *   relu    m x4, c x4, l x4
 *   any     m x4, c x4, l x4, k x4
 *   exact   multiplier x4, shift x4
 */
#ifndef EDGEFLEET_HELIUM_SCALE_H
#define EDGEFLEET_HELIUM_SCALE_H

#include <arm_mve.h>
#include <edgefleet/kernels.h>

typedef enum { EF_RELU, EF_ANY, EF_EXACT } ef_form;

/* What the exact form wants of a layer. */
typedef struct {
    int32_t out_zero, act_min, act_max;
} ef_exact_range;

enum { EF_LANES = 4 };

/* Words of four channels in front of their weights: bias and scale. */
static inline int32_t ef_group_words(ef_form form)
{
    return EF_LANES * (form == EF_RELU ? 4 : form == EF_ANY ? 5 : 3);
}

static inline int32x4_t ef_clamp4(int32x4_t y, int32_t least, int32_t most)
{
    return vmaxq_s32(vminq_s32(y, vdupq_n_s32(most)), vdupq_n_s32(least));
}

/* Rounded twice, as the reference does: vqrdmulh is its doubling high product; then a shift to the right, halves away
 * from zero: one less before it where the sum is negative. */
static inline int32x4_t ef_scale4_exactly(int32x4_t sum, int32x4_t multiplier, int32x4_t shift, const ef_exact_range *r)
{
    int32x4_t zero = vdupq_n_s32(0), right = vminq_s32(shift, zero);
    int32x4_t y = vqrdmulhq_s32(vshlq_s32(sum, vmaxq_s32(shift, zero)), multiplier);
    y = vqaddq_s32(y, vshrq_n_s32(vandq_s32(y, right), 31));
    y = vaddq_n_s32(vrshlq_s32(y, right), r->out_zero);
    return ef_clamp4(y, r->act_min, r->act_max);
}

/* sums of four channels without their bias; group: the stream's words of these channels. */
static inline int32x4_t ef_scale4(int32x4_t sum, const int32_t *group, ef_form form, const ef_exact_range *range)
{
    sum = vaddq_s32(sum, vldrwq_s32(group));
    if (form == EF_EXACT) return ef_scale4_exactly(sum, vldrwq_s32(group + 4), vldrwq_s32(group + 8), range);
    sum = vshlq_s32(sum, vldrwq_s32(group + 12));
    int32x4_t y = vaddq_s32(vmulhq_s32(sum, vldrwq_s32(group + 4)), vldrwq_s32(group + 8));
    if (form == EF_ANY) y = vaddq_s32(y, vandq_s32(vldrwq_s32(group + 16), vshrq_n_s32(sum, 31)));
    return ef_clamp4(vshrq_n_s32(y, EF_SCALE_FRACTION_BITS), INT8_MIN, INT8_MAX);
}

/* A vector of four words. vmov's first register goes to the lower of the two lanes that it names. */
static inline int32x4_t ef_four(int32_t a, int32_t b, int32_t c, int32_t d)
{
    int32x4_t v = vuninitializedq_s32();
    __asm__("vmov %q0[2], %q0[0], %1, %2\n\tvmov %q0[3], %q0[1], %3, %4" : "+w"(v) : "r"(a), "r"(c), "r"(b), "r"(d));
    return v;
}

/* Lanes that count where n are left. */
static inline mve_pred16_t ef_first(int32_t n)
{
    return vctp32q((uint32_t)(n < 0 ? 0 : n));
}

#endif
