/* SPDX-License-Identifier: Apache-2.0
 *
 * From an accumulator to int8, in the three forms of kernels.h.
 */
#ifndef EDGEFLEET_PORTABLE_SCALE_H
#define EDGEFLEET_PORTABLE_SCALE_H

#include <edgefleet/kernels.h>

#include "fixed_point.h"

/* What takes a form (or a kind of weights) as a constant is inlined for each, so that nothing is asked an element. */
#if defined(__GNUC__)
#define EF_FOR_EACH_FORM static inline __attribute__((always_inline))
#define EF_APART __attribute__((noinline)) /* called from several places */
#else
#define EF_FOR_EACH_FORM static inline
#define EF_APART
#endif

typedef enum { EF_RELU, EF_ANY, EF_EXACT } ef_form;

/* What the exact form wants of a layer. */
typedef struct {
    int32_t out_zero, act_min, act_max, rounding;
} ef_exact_range;

/* Words of one channel's scale in a stream. */
EF_FOR_EACH_FORM int32_t ef_scale_words(ef_form form)
{
    return form == EF_RELU ? 3 : form == EF_ANY ? 4 : 2;
}

static inline int8_t ef_saturated(int32_t y)
{
#if defined(__ARM_FEATURE_SAT)
    return (int8_t)__builtin_arm_ssat(y, 8);
#else
    return (int8_t)ef_clamp(y, INT8_MIN, INT8_MAX);
#endif
}

/* scale: m c l, before them k where ties of negative sums matter */
EF_FOR_EACH_FORM int8_t ef_scaled_once_shifted(int32_t left, int32_t m, int32_t c, int32_t k)
{
    int32_t y = (int32_t)(((int64_t)left * m) >> 32) + c + (left < 0 ? k : 0);
    return ef_saturated(y >> EF_SCALE_FRACTION_BITS);
}

/* scale: multiplier, shift */
static inline int8_t ef_scaled_exact(int32_t sum, const int32_t *scale, const ef_exact_range *range)
{
    int32_t y = range->rounding == EF_ROUND_ONCE ? ef_scaled_once(sum, scale[0], scale[1])
                                                 : ef_scaled_twice(sum, scale[0], scale[1]);
    return (int8_t)ef_clamp(y + range->out_zero, range->act_min, range->act_max);
}

EF_FOR_EACH_FORM int8_t ef_scaled(uint32_t sum, const int32_t *scale, ef_form form, const ef_exact_range *range)
{
    if (form == EF_RELU) return ef_scaled_once_shifted((int32_t)(sum << scale[2]), scale[0], scale[1], 0);
    if (form == EF_ANY) return ef_scaled_once_shifted((int32_t)(sum << scale[3]), scale[1], scale[2], scale[0]);
    return ef_scaled_exact((int32_t)sum, scale, range);
}

#endif
