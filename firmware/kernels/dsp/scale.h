/* SPDX-License-Identifier: Apache-2.0
 *
 * From an accumulator to int8 in C, in the three forms of kernels.h, where no inner loop does it.
 */
#ifndef EDGEFLEET_DSP_SCALE_H
#define EDGEFLEET_DSP_SCALE_H

#include <edgefleet/kernels.h>

#include "../portable/fixed_point.h"
#include "intrinsics.h"

typedef enum { EF_RELU, EF_ANY, EF_EXACT } ef_form;

/* Words of one channel's scale in a stream. */
static inline int32_t ef_scale_words(ef_form form)
{
    return form == EF_RELU ? 3 : form == EF_ANY ? 4 : 2;
}

/* scale: m c l */
static inline int8_t ef_scaled_relu(int32_t sum, const int32_t *scale)
{
    int32_t left = ef_shift_left(sum, scale[2]);
    return (int8_t)ef_saturate_after_15(ef_multiply_high_words(left, scale[0], scale[1]));
}

/* scale: k m c l */
static inline int8_t ef_scaled_any(int32_t sum, const int32_t *scale)
{
    int32_t left = ef_shift_left(sum, scale[3]);
    return (int8_t)ef_saturate_after_15(ef_multiply_high_words(left, scale[1], scale[2]) + (scale[0] & (left >> 31)));
}

/* What the exact form wants of a layer. */
typedef struct {
    int32_t out_zero, act_min, act_max, rounding;
} ef_exact_range;

/* scale: multiplier, shift */
static inline int8_t ef_scaled_exact(int32_t sum, const int32_t *scale, const ef_exact_range *range)
{
    int32_t y = range->rounding == EF_ROUND_ONCE ? ef_scaled_once(sum, scale[0], scale[1])
                                                 : ef_scaled_twice(sum, scale[0], scale[1]);
    return (int8_t)ef_clamp(y + range->out_zero, range->act_min, range->act_max);
}

static inline int8_t ef_scaled(int32_t sum, const int32_t *scale, ef_form form, const ef_exact_range *range)
{
    if (form == EF_RELU) return ef_scaled_relu(sum, scale);
    if (form == EF_ANY) return ef_scaled_any(sum, scale);
    return ef_scaled_exact(sum, scale, range);
}

#endif
