/* SPDX-License-Identifier: Apache-2.0
 *
 * Fully connected in portable C: four outputs a pass.
 */
#include <edgefleet/kernels.h>

#include "scale.h"

enum { OUTPUTS = 4, INPUTS = 4 };
typedef enum { EF_INT8, EF_INT4 } weights_kind;

static inline int32_t weight_of(const int8_t *quad, int32_t output, int32_t input, weights_kind kind)
{
    if (kind == EF_INT8) return quad[output * INPUTS + input];
    int32_t both = quad[output / 2 * INPUTS + input];
    return output % 2 ? both >> 4 : (both & 15) - 8;
}

/* Sums are unsigned, because they may wrap on the way; behind the inputs there are weights of 0, and nothing is read. */
static inline void multiply(const int8_t *x, const int8_t *w, int32_t inputs, uint32_t *sums, weights_kind kind)
{
    int32_t quad_bytes = kind == EF_INT4 ? 8 : 16;
    for (; inputs >= INPUTS; inputs -= INPUTS, x += INPUTS, w += quad_bytes)
        for (int32_t j = 0; j < OUTPUTS; j++)
            sums[j] += (uint32_t)(x[0] * weight_of(w, j, 0, kind) + x[1] * weight_of(w, j, 1, kind) +
                                  x[2] * weight_of(w, j, 2, kind) + x[3] * weight_of(w, j, 3, kind));
    for (int32_t i = 0; i < inputs; i++)
        for (int32_t j = 0; j < OUTPUTS; j++) sums[j] += (uint32_t)(x[i] * weight_of(w, j, i, kind));
}

static inline void row(const ef_fully_connected_layer *p, const int8_t *in, int8_t *out, ef_form form, weights_kind kind)
{
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, p->rounding};
    const int32_t relu[3] = {p->m, p->c, p->l}, any[4] = {p->k, p->m, p->c, p->l}, exact[2] = {p->m, p->l};
    const int32_t *all = form == EF_RELU ? relu : form == EF_ANY ? any : exact, *stream = (const int32_t *)(p + 1);
    int32_t words = ef_scale_words(form), quad_words = kind == EF_INT4 ? 2 : 4;
    for (int32_t c = 0; c < p->out_n; c += OUTPUTS) {
        uint32_t sums[OUTPUTS] = {(uint32_t)stream[0], (uint32_t)stream[1], (uint32_t)stream[2], (uint32_t)stream[3]};
        multiply(in, (const int8_t *)(stream + OUTPUTS), p->in_n, sums, kind);
        stream += OUTPUTS + p->k_quads * quad_words;
        for (int32_t j = 0; j < OUTPUTS && c + j < p->out_n; j++)
            out[c + j] = ef_scaled(sums[j], p->per_channel ? stream + j * words : all, form, &range);
        if (p->per_channel) stream += OUTPUTS * words;
    }
}

static inline void connect(const void *layer, uint8_t *arena, ef_form form, weights_kind kind)
{
    const ef_fully_connected_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    for (int32_t i = 0; i < p->rows; i++, in += p->in_n, out += p->out_n) row(p, in, out, form, kind);
}

#define FULLY_CONNECTED(name, form, kind)                                                   \
    EF_FAST_CODE void ef_fully_connected_portable_##name(const void *layer, uint8_t *arena) \
    {                                                                                       \
        connect(layer, arena, form, kind);                                                  \
    }

FULLY_CONNECTED(relu, EF_RELU, EF_INT8)
FULLY_CONNECTED(any, EF_ANY, EF_INT8)
FULLY_CONNECTED(exact, EF_EXACT, EF_INT8)
FULLY_CONNECTED(relu_int4, EF_RELU, EF_INT4)
FULLY_CONNECTED(any_int4, EF_ANY, EF_INT4)
FULLY_CONNECTED(exact_int4, EF_EXACT, EF_INT4)
