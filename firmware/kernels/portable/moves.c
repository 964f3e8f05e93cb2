/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes from one place to another: transpose, slice, split, concat, pad and state variables.
 */
#include <edgefleet/kernels.h>

#include "memory.h"

enum { WORTH_A_CALL = 12 }; /* bytes from which memcpy is faster than a loop */

static inline void copy_row(uint8_t *out, const uint8_t *in, int32_t bytes)
{
    if (bytes >= WORTH_A_CALL)
        memcpy(out, in, (size_t)bytes);
    else
        for (int32_t i = 0; i < bytes; i++) out[i] = in[i];
}

static inline void copy_rows(const ef_move_layer *p, const uint8_t *in, uint8_t *out)
{
    int32_t n = p->shape[4], in_step = p->in_step[4], out_step = p->out_step[4];
    if (p->bytes == 1)
        for (; n > 0; n--, in += in_step, out += out_step) *out = *in;
    else
        for (; n > 0; n--, in += in_step, out += out_step) copy_row(out, in, p->bytes);
}

EF_FAST_CODE void ef_move_portable_rows(const void *layer, uint8_t *arena)
{
    const ef_move_layer *p = layer;
    const uint8_t *in = arena + p->in + p->in_start;
    uint8_t *out = arena + p->out + p->out_start;
    for (int32_t i = 0; i < p->shape[0]; i++)
        for (int32_t j = 0; j < p->shape[1]; j++)
            for (int32_t k = 0; k < p->shape[2]; k++)
                for (int32_t l = 0; l < p->shape[3]; l++) {
                    int32_t from = i * p->in_step[0] + j * p->in_step[1] + k * p->in_step[2] + l * p->in_step[3];
                    int32_t to = i * p->out_step[0] + j * p->out_step[1] + k * p->out_step[2] + l * p->out_step[3];
                    copy_rows(p, in + from, out + to);
                }
}

EF_FAST_CODE void ef_fill_portable_bytes(const void *layer, uint8_t *arena)
{
    const ef_fill_layer *p = layer;
    memset(arena + p->out + p->start, (int)p->value, (size_t)p->n);
}

EF_FAST_CODE void ef_constant_portable_bytes(const void *layer, uint8_t *arena)
{
    const ef_constant_layer *p = layer;
    memcpy(arena + p->out + p->start, p + 1, (size_t)p->n);
}
