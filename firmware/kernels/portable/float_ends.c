/* SPDX-License-Identifier: Apache-2.0
 *
 * From float32 to int8 and back, with IEEE's division and multiplication alone: a processor without floats gives the
 * same bits.
 */
#include <edgefleet/kernels.h>

#include "fixed_point.h"

/* The nearest integer, halves away from zero; what lies beyond int8 however its zero point lies, NaN among it, is cut. */
static int32_t rounded(float x)
{
    const float beyond = 512.0f;
    if (!(x > -beyond)) return -512;
    if (x > beyond) return 512;
    int32_t whole = (int32_t)x;
    float rest = x - (float)whole;
    return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

EF_FAST_CODE void ef_quantize_portable_float(const void *layer, uint8_t *arena)
{
    const ef_float_layer *p = layer;
    const float *in = (const float *)(const void *)(arena + p->in);
    int8_t *out = (int8_t *)arena + p->out;
    for (int32_t i = 0; i < p->n; i++)
        out[i] = (int8_t)ef_clamp(rounded(in[i] / p->scale) + p->zero, INT8_MIN, INT8_MAX);
}

EF_FAST_CODE void ef_dequantize_portable_float(const void *layer, uint8_t *arena)
{
    const ef_float_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    float *out = (float *)(void *)(arena + p->out);
    for (int32_t i = 0; i < p->n; i++) out[i] = p->scale * (float)(in[i] - p->zero);
}
