/* SPDX-License-Identifier: Apache-2.0
 *
 * Fully connected for the Arm DSP extension: each row of inputs is widened once, an inner loop
 * (fully_connected_sums.S) makes the sums of all outputs, then all are scaled.
 *
 * Scratch: the widened inputs (k_quads * 8 bytes), then the sums (16 bytes for each four outputs).
 */
#include <edgefleet/kernels.h>

#include "intrinsics.h"
#include "scale.h"

/* What the inner loops read; the order stands in fully_connected_sums.S. */
typedef struct {
    const uint32_t *inputs_end;
    int32_t stream_step, groups, k_quads, sum_of_inputs;
} row_facts;

typedef void (*row_loop)(const uint32_t *inputs, const int32_t *stream, int32_t *sums, const row_facts *facts);

void ef_fully_connected_sums(const uint32_t *, const int32_t *, int32_t *, const row_facts *);
void ef_fully_connected_sums_halves(const uint32_t *, const int32_t *, int32_t *, const row_facts *);
void ef_fully_connected_sums_int4(const uint32_t *, const int32_t *, int32_t *, const row_facts *);

enum { OUTPUTS = 4 };
typedef enum { PAIRS, HALVES, INT4 } order;

static inline uint32_t *widen_word(uint32_t word, uint32_t *to, order o)
{
    if (o == HALVES) {
        *to++ = ef_odd_bytes(word);
        *to++ = ef_swap_in_halves(word) ^ 0x007f007f;
    } else {
        *to++ = ef_even_bytes(word);
        *to++ = ef_odd_bytes(word);
    }
    return to;
}

/* Inputs as the inner loop wants them, zeros up to k_quads; returns where they end. */
static inline uint32_t *widen_inputs(const ef_fully_connected_layer *p, const int8_t *in, uint32_t *to, order o)
{
    uint32_t *end = to + p->k_quads * 2;
    for (int32_t i = p->in_n >> 2; i; i--, in += 4) to = widen_word(ef_load_word(in), to, o);
    if (p->in_n & 3) to = widen_word(ef_load_bytes(in, p->in_n & 3), to, o);
    while (to < end) *to++ = 0;
    return end;
}

static inline int32_t sum_of_inputs(const uint32_t *from, const uint32_t *end)
{
    int32_t sum = 0;
    while (from < end) sum = ef_multiply_halves(*from++, 0x00010001, sum);
    return sum;
}

static inline void scale_all(const ef_fully_connected_layer *p, const int32_t *sums, int8_t *out, ef_form f)
{
    const int32_t relu[3] = {p->m, p->c, p->l}, any[4] = {p->k, p->m, p->c, p->l}, exact[2] = {p->m, p->l};
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, p->rounding};
    const int32_t *scale = f == EF_RELU ? relu : f == EF_ANY ? any : exact;
    for (int32_t i = p->out_n; i; i--) *out++ = ef_scaled(*sums++, scale, f, &range);
}

/* scales: those of the first four outputs; the next ones lie step words on. */
static inline void scale_each(const ef_fully_connected_layer *p, const int32_t *sums, const int32_t *scales, int32_t step,
                              int8_t *out, ef_form f)
{
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, p->rounding};
    int32_t words = ef_scale_words(f);
    for (int32_t i = 0; i < p->out_n; i++, out++) {
        *out = ef_scaled(*sums++, scales + (i & 3) * words, f, &range);
        if ((i & 3) == 3) scales += step;
    }
}

static inline __attribute__((always_inline)) void connect(const void *layer, uint8_t *arena, ef_form f, order o)
{
    const ef_fully_connected_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    uint32_t *inputs = (uint32_t *)(void *)(arena + p->scratch);
    int32_t *sums = (int32_t *)(void *)(inputs + p->k_quads * 2);
    const int32_t *stream = (const int32_t *)(p + 1);
    int32_t scale_words = p->per_channel ? OUTPUTS * ef_scale_words(f) : 0;
    int32_t weight_words = p->k_quads * (o == INT4 ? 2 : 4);
    row_facts facts = {0, scale_words * 4, (p->out_n + 3) >> 2, p->k_quads, 0};
    for (int32_t row = p->rows; row > 0; row--, in += p->in_n, out += p->out_n) {
        facts.inputs_end = widen_inputs(p, in, inputs, o);
        if (o == INT4) facts.sum_of_inputs = sum_of_inputs(inputs, facts.inputs_end);
        if (o == PAIRS) ef_fully_connected_sums(inputs, stream, sums, &facts);
        if (o == HALVES) ef_fully_connected_sums_halves(inputs, stream, sums, &facts);
        if (o == INT4) ef_fully_connected_sums_int4(inputs, stream, sums, &facts);
        if (p->per_channel)
            scale_each(p, sums, stream + OUTPUTS + weight_words, OUTPUTS + weight_words + scale_words, out, f);
        else
            scale_all(p, sums, out, f);
    }
}

#define FULLY_CONNECTED(name, form, order)                                              \
    EF_FAST_CODE void ef_fully_connected_dsp_##name(const void *layer, uint8_t *arena)  \
    {                                                                                   \
        connect(layer, arena, form, order);                                             \
    }

FULLY_CONNECTED(relu, EF_RELU, PAIRS)
FULLY_CONNECTED(any, EF_ANY, PAIRS)
FULLY_CONNECTED(exact, EF_EXACT, PAIRS)
FULLY_CONNECTED(relu_halves, EF_RELU, HALVES)
FULLY_CONNECTED(any_halves, EF_ANY, HALVES)
FULLY_CONNECTED(exact_halves, EF_EXACT, HALVES)
FULLY_CONNECTED(relu_int4, EF_RELU, INT4)
FULLY_CONNECTED(any_int4, EF_ANY, INT4)
FULLY_CONNECTED(exact_int4, EF_EXACT, INT4)
