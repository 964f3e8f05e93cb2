/* SPDX-License-Identifier: Apache-2.0
 *
 * Sum, difference and product of two tensors.
 */
#include <edgefleet/kernels.h>

#include "fixed_point.h"

enum { SUM_LEFT_SHIFT = 20 };

/* A row of both operands; steps are 0 or 1. */
typedef struct {
    const int8_t *a, *b;
    int8_t *out;
    int32_t n, a_step, b_step;
} row;

typedef void (*row_kernel)(const ef_binary_layer *p, row r);

static inline int32_t addend(int8_t x, int32_t zero, int32_t multiplier, int32_t shift)
{
    int32_t wide = (x - zero) * (1 << SUM_LEFT_SHIFT); /* multiplier's factor is at most 1: no left shift */
    return ef_rounding_divide(ef_doubling_high(wide, multiplier), -shift);
}

static inline int8_t result(const ef_binary_layer *p, int32_t value)
{
    value = ef_scaled_twice(value, p->out_multiplier, p->out_shift) + p->out_zero;
    return (int8_t)ef_clamp(value, p->act_min, p->act_max);
}

static inline void sum_row(const ef_binary_layer *p, row r, int32_t sign)
{
    for (; r.n > 0; r.n--, r.a += r.a_step, r.b += r.b_step) {
        int32_t a = addend(*r.a, p->a_zero, p->a_multiplier, p->a_shift);
        int32_t b = addend(*r.b, p->b_zero, p->b_multiplier, p->b_shift);
        *r.out++ = result(p, a + sign * b);
    }
}

static void add_row(const ef_binary_layer *p, row r) { sum_row(p, r, 1); }

static void sub_row(const ef_binary_layer *p, row r) { sum_row(p, r, -1); }

static void mul_row(const ef_binary_layer *p, row r)
{
    for (; r.n > 0; r.n--, r.a += r.a_step, r.b += r.b_step)
        *r.out++ = result(p, (*r.a - p->a_zero) * (*r.b - p->b_zero));
}

static inline void each_row(const void *layer, uint8_t *arena, row_kernel kernel)
{
    const ef_binary_layer *p = layer;
    const int8_t *stream = (const int8_t *)(p + 1);
    const int8_t *a = p->constant == 1 ? stream : (const int8_t *)arena + p->a;
    const int8_t *b = p->constant == 2 ? stream : (const int8_t *)arena + p->b;
    row r = {a, b, (int8_t *)arena + p->out, p->shape[3], p->a_step[3], p->b_step[3]};
    for (int32_t i = 0; i < p->shape[0]; i++)
        for (int32_t j = 0; j < p->shape[1]; j++)
            for (int32_t k = 0; k < p->shape[2]; k++, r.out += r.n) {
                r.a = a + i * p->a_step[0] + j * p->a_step[1] + k * p->a_step[2];
                r.b = b + i * p->b_step[0] + j * p->b_step[1] + k * p->b_step[2];
                kernel(p, r);
            }
}

EF_FAST_CODE void ef_add_portable_exact(const void *layer, uint8_t *arena) { each_row(layer, arena, add_row); }

EF_FAST_CODE void ef_sub_portable_exact(const void *layer, uint8_t *arena) { each_row(layer, arena, sub_row); }

EF_FAST_CODE void ef_mul_portable_exact(const void *layer, uint8_t *arena) { each_row(layer, arena, mul_row); }

EF_FAST_CODE void ef_add_portable_flat(const void *layer, uint8_t *arena)
{
    const ef_add_flat_layer *p = layer;
    const int8_t *a = (const int8_t *)arena + p->a, *b = (const int8_t *)arena + p->b;
    int8_t *out = (int8_t *)arena + p->out;
    int32_t a1 = p->a1, a2 = p->a2, c = p->c;
    for (int32_t n = p->n; n > 0; n--) {
        int32_t sum = c + (int32_t)(((int64_t)a1 * *a++) >> 8) + (int32_t)(((int64_t)a2 * *b++) >> 8);
        *out++ = (int8_t)ef_clamp(sum >> SUM_LEFT_SHIFT, INT8_MIN, INT8_MAX);
    }
}
