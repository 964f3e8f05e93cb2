/* SPDX-License-Identifier: Apache-2.0
 *
 * Mean over axes: shape holds kept, reduced, kept, reduced, kept axes in turn.
 */
#include <edgefleet/kernels.h>

#include "fixed_point.h"

EF_FAST_CODE void ef_mean_portable_exact(const void *layer, uint8_t *arena)
{
    const ef_mean_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    int32_t inner = p->shape[4], group = inner * p->shape[3], line = group * p->shape[2];
    for (int32_t i = 0; i < p->shape[0]; i++, in += line * p->shape[1])
        for (int32_t j = 0; j < p->shape[2]; j++)
            for (int32_t k = 0; k < inner; k++) {
                const int8_t *from = in + j * group + k;
                int32_t sum = p->offset;
                for (int32_t r = 0; r < p->shape[1]; r++, from += line) {
                    const int8_t *x = from;
                    for (int32_t s = p->shape[3]; s > 0; s--, x += inner) sum += *x;
                }
                sum = ef_scaled_twice(sum, p->multiplier, p->shift) + p->out_zero;
                *out++ = (int8_t)ef_clamp(sum, INT8_MIN, INT8_MAX);
            }
}
