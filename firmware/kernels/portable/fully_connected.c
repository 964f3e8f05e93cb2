/* SPDX-License-Identifier: Apache-2.0
 *
 * Fully connected in portable C: four outputs a pass.
 */
#include <edgefleet/kernels.h>

#include "scale.h"

enum { OUTPUTS = 4, INPUTS = 4 };
typedef enum { EF_INT8, EF_INT4 } weights_kind;

/* Products added up; they fit 32 bits, but with the bias they may wrap on the way. */
typedef struct {
    int32_t of[OUTPUTS];
} sums;

/* One input with a weight of each output: they lie four bytes apart, or share bytes two by two. */
EF_FOR_EACH_FORM void accumulate(sums *s, int32_t x, const int8_t *w, weights_kind kind)
{
    int32_t ab = w[0], cd = w[INPUTS];
    s->of[0] += x * (kind == EF_INT8 ? ab : (ab & 15) - 8);
    s->of[1] += x * (kind == EF_INT8 ? cd : ab >> 4);
    s->of[2] += x * (kind == EF_INT8 ? w[2 * INPUTS] : (cd & 15) - 8);
    s->of[3] += x * (kind == EF_INT8 ? w[3 * INPUTS] : cd >> 4);
}

/* Behind the inputs there are weights of 0, and nothing is read. */
EF_FOR_EACH_FORM sums multiply(const int8_t *x, const int8_t *w, int32_t inputs, weights_kind kind)
{
    sums s = {{0, 0, 0, 0}};
    int32_t quad_bytes = kind == EF_INT4 ? 8 : 16;
    for (const int8_t *end = x + (inputs & ~(INPUTS - 1)); x != end; x += INPUTS, w += quad_bytes) {
        accumulate(&s, x[0], w, kind);
        accumulate(&s, x[1], w + 1, kind);
        accumulate(&s, x[2], w + 2, kind);
        accumulate(&s, x[3], w + 3, kind);
    }
    for (int32_t i = 0; i < (inputs & (INPUTS - 1)); i++) accumulate(&s, x[i], w + i, kind);
    return s;
}

EF_FOR_EACH_FORM void row(const ef_fully_connected_layer *p, const int8_t *in, int8_t *out, ef_form form,
                          weights_kind kind)
{
    const ef_exact_range range = {p->out_zero, p->act_min, p->act_max, p->rounding};
    const int32_t relu[3] = {p->m, p->c, p->l}, any[4] = {p->k, p->m, p->c, p->l}, exact[2] = {p->m, p->l};
    const int32_t *all = form == EF_RELU ? relu : form == EF_ANY ? any : exact, *stream = (const int32_t *)(p + 1);
    int32_t words = ef_scale_words(form), quad_words = kind == EF_INT4 ? 2 : 4;
    for (int32_t c = 0; c < p->out_n; c += OUTPUTS) {
        const int32_t *bias = stream;
        sums s = multiply(in, (const int8_t *)(stream + OUTPUTS), p->in_n, kind);
        stream += OUTPUTS + p->k_quads * quad_words;
        for (int32_t j = 0; j < OUTPUTS && c + j < p->out_n; j++) {
            const int32_t *scale = p->per_channel ? stream + j * words : all;
            out[c + j] = ef_scaled((uint32_t)bias[j] + (uint32_t)s.of[j], scale, form, &range);
        }
        if (p->per_channel) stream += OUTPUTS * words;
    }
}

EF_FOR_EACH_FORM void connect(const void *layer, uint8_t *arena, ef_form form, weights_kind kind)
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
