/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums (and differences: a2 < 0) of two tensors of the same shape, in the flat form, for the Arm DSP extension. a << 8 in
 * a half makes smlaw's product a1 * a >> 8.
 */
#include <edgefleet/kernels.h>

#include "intrinsics.h"

/* The sums of bytes 0 and 2 of words whose other bytes are 0, shifted left by 8: the low half's. */
static inline uint32_t sum_low(const ef_add_flat_layer *p, uint32_t a, uint32_t b)
{
    int32_t sum = ef_multiply_word_low((uint32_t)p->a2, b, ef_multiply_word_low((uint32_t)p->a1, a, p->c));
    return (uint32_t)ef_saturate_after_20(sum);
}

static inline uint32_t sum_high(const ef_add_flat_layer *p, uint32_t a, uint32_t b)
{
    int32_t sum = ef_multiply_word_high((uint32_t)p->a2, b, ef_multiply_word_high((uint32_t)p->a1, a, p->c));
    return (uint32_t)ef_saturate_after_20(sum);
}

static inline uint32_t sum_word(const ef_add_flat_layer *p, uint32_t a, uint32_t b)
{
    const uint32_t odd = 0xff00ff00u;
    uint32_t even_a = (a << 8) & odd, even_b = (b << 8) & odd, odd_a = a & odd, odd_b = b & odd;
    return ef_join_bytes(sum_low(p, even_a, even_b), sum_low(p, odd_a, odd_b), sum_high(p, even_a, even_b),
                         sum_high(p, odd_a, odd_b));
}

EF_FAST_CODE void ef_add_dsp_flat(const void *layer, uint8_t *arena)
{
    const ef_add_flat_layer *p = layer;
    const ef_add_flat_layer factors = *p;
    const int8_t *a = (const int8_t *)arena + p->a, *b = (const int8_t *)arena + p->b;
    int8_t *out = (int8_t *)arena + p->out;
    int32_t n = p->n;
    for (; n >= 4; n -= 4, a += 4, b += 4, out += 4)
        ef_store_word(out, sum_word(&factors, ef_load_word(a), ef_load_word(b)));
    if (n) {
        uint32_t word = sum_word(&factors, ef_load_bytes(a, n), ef_load_bytes(b, n));
        for (; n > 0; n--, word >>= 8) *out++ = (int8_t)word;
    }
}
