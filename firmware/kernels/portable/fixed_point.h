/* SPDX-License-Identifier: Apache-2.0
 *
 * The fixed-point arithmetic of TFLite's reference kernels (gemmlowp's). A real factor is a 31-bit multiplier and a power
 * of two, shift: multiplier / 2^31 * 2^shift. Left shifts go through uint32_t, where they are defined for every value.
 */
#ifndef EDGEFLEET_FIXED_POINT_H
#define EDGEFLEET_FIXED_POINT_H

#include <stdint.h>

static inline int32_t ef_shift_left(int32_t x, int32_t bits)
{
    return (int32_t)((uint32_t)x << bits);
}

/* The upper half of 2 * a * b, halves up. INT32_MIN twice, the one pair that overflows, does not occur. */
static inline int32_t ef_doubling_high(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* x / 2^bits, halves away from zero; 0 <= bits <= 31. */
static inline int32_t ef_rounding_divide(int32_t x, int32_t bits)
{
    int32_t mask = (int32_t)((1u << bits) - 1u);
    int32_t rest = x & mask;
    return (x >> bits) + (rest > (mask >> 1) + (x < 0));
}

/* x times a factor, rounded twice. */
static inline int32_t ef_scaled_twice(int32_t x, int32_t multiplier, int32_t shift)
{
    if (shift > 0) return ef_doubling_high(ef_shift_left(x, shift), multiplier);
    return ef_rounding_divide(ef_doubling_high(x, multiplier), -shift);
}

/* x times a factor, rounded once, halves up. */
static inline int32_t ef_scaled_once(int32_t x, int32_t multiplier, int32_t shift)
{
    int32_t bits = 31 - shift;
    return (int32_t)(((int64_t)x * multiplier + ((int64_t)1 << (bits - 1))) >> bits);
}

static inline int32_t ef_clamp(int32_t x, int32_t least, int32_t most)
{
    return x < least ? least : x > most ? most : x;
}

#endif
