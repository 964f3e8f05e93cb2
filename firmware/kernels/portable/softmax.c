/* SPDX-License-Identifier: Apache-2.0
 *
 * Softmax over rows, in gemmlowp's fixed point: exponentials in Q0.31, their sum in Q12.19, its reciprocal by Newton's
 * method in Q2.29.
 */
#include <edgefleet/kernels.h>

#include "fixed_point.h"

enum { SUM_INTEGER_BITS = 12 };

/* exp(a) in Q0.31 for a <= 0 in Q5.26: a polynomial on (-1/4, 0], then a factor for each binary digit of the rest. */
EF_FAST_CODE static int32_t exponential(int32_t a)
{
    static const int32_t factors[7] = {/* exp(-1/4), exp(-1/2), exp(-1), ... exp(-16) */
                                       1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int32_t exp_minus_eighth = 1895147668, third = 715827883, quarter = 1 << 24;
    int32_t small = (a & (quarter - 1)) - quarter, rest = small - a;
    int32_t x = small * (1 << 5) + (1 << 28);
    int32_t x2 = ef_doubling_high(x, x), x3 = ef_doubling_high(x2, x), x4 = ef_doubling_high(x2, x2);
    int32_t tail = ef_rounding_divide(ef_doubling_high(ef_rounding_divide(x4, 2) + x3, third) + x2, 1);
    int32_t y = exp_minus_eighth + ef_doubling_high(exp_minus_eighth, x + tail);
    if (a == 0) return INT32_MAX;
    for (int32_t i = 0; i < 7; i++)
        if (rest & (quarter << i)) y = ef_doubling_high(y, factors[i]);
    return y;
}

/* 1 / (1 + x) in Q0.31 for x in [0, 1) in Q0.31. The first guess is right to 1/17, so that no step leaves 32 bits; only
 * the answer 1 does. */
static int32_t reciprocal_of_one_plus(int32_t x)
{
    const int32_t forty_eight_17ths = 1515870810, minus_thirty_two_17ths = -1010580540, one = 1 << 29;
    int32_t half = (int32_t)(((uint32_t)x + 0x80000000u) >> 1); /* (1 + x) / 2 */
    int32_t y = forty_eight_17ths + ef_doubling_high(half, minus_thirty_two_17ths);
    for (int32_t i = 0; i < 3; i++) y += ef_doubling_high(y, one - ef_doubling_high(half, y)) * 4;
    return y >= 1 << 30 ? INT32_MAX : y * 2;
}

static inline int32_t exponential_of(const ef_softmax_layer *p, int32_t difference)
{
    return exponential(ef_doubling_high(difference * (1 << p->shift), p->multiplier));
}

static void softmax_row(const ef_softmax_layer *p, const int8_t *in, int8_t *out)
{
    int32_t largest = INT8_MIN, zeros = 0;
    uint32_t sum = 0;
    for (int32_t i = 0; i < p->n; i++)
        if (in[i] > largest) largest = in[i];
    for (int32_t i = 0; i < p->n; i++)
        if (in[i] - largest >= p->diff_min)
            sum += (uint32_t)ef_rounding_divide(exponential_of(p, in[i] - largest), SUM_INTEGER_BITS);
    for (; !(sum & 0x80000000u); zeros++) sum <<= 1; /* never 0: the largest element counts as 1 */
    int32_t scale = reciprocal_of_one_plus((int32_t)(sum & 0x7fffffffu));
    int32_t shift = SUM_INTEGER_BITS - zeros + 31 - 8;
    for (int32_t i = 0; i < p->n; i++) {
        int32_t difference = in[i] - largest, value = 0;
        if (difference >= p->diff_min)
            value = ef_rounding_divide(ef_doubling_high(scale, exponential_of(p, difference)), shift);
        out[i] = (int8_t)ef_clamp(value + INT8_MIN, INT8_MIN, INT8_MAX);
    }
}

EF_FAST_CODE void ef_softmax_portable_exact(const void *layer, uint8_t *arena)
{
    const ef_softmax_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    for (int32_t i = 0; i < p->rows; i++, in += p->n, out += p->n) softmax_row(p, in, out);
}
