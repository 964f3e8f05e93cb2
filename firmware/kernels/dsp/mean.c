/* SPDX-License-Identifier: Apache-2.0
 *
 * Mean over axes in front of the channels (height and width) for the Arm DSP extension: four channels at a time.
 *
 * Limit: only the first pair of axes of ef_mean_layer is there (shape[3] and shape[4] are 1).
 */
#include <edgefleet/kernels.h>

#include "../portable/fixed_point.h"
#include "intrinsics.h"

enum { CHANNELS = 4, MOST_IN_16_BITS = 256 };

/* Sums of four channels over n rows that lie step bytes apart. */
static inline void sum_rows(const int8_t *in, int32_t step, int32_t n, int32_t channels, int32_t *sums)
{
    sums[0] = sums[1] = sums[2] = sums[3] = 0;
    while (n > 0) {
        uint32_t even = 0, odd = 0;
        int32_t part = n < MOST_IN_16_BITS ? n : MOST_IN_16_BITS;
        n -= part;
        for (; part > 0; part--, in += step) {
            uint32_t word = ef_load_bytes(in, channels);
            even = ef_add_even_bytes(even, word);
            odd = ef_add_odd_bytes(odd, word);
        }
        sums[0] += (int16_t)even;
        sums[1] += (int16_t)odd;
        sums[2] += (int32_t)even >> 16;
        sums[3] += (int32_t)odd >> 16;
    }
}

EF_FAST_CODE void ef_mean_dsp_rows(const void *layer, uint8_t *arena)
{
    const ef_mean_layer *p = layer;
    const int8_t *in = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    int32_t step = p->shape[2], rows = p->shape[1];
    for (int32_t i = 0; i < p->shape[0]; i++, in += rows * step)
        for (int32_t c = 0; c < step; c += CHANNELS) {
            int32_t sums[CHANNELS], channels = step - c < CHANNELS ? step - c : CHANNELS;
            if (channels == CHANNELS) sum_rows(in + c, step, rows, CHANNELS, sums);
            else sum_rows(in + c, step, rows, channels, sums);
            for (int32_t k = 0; k < channels; k++) {
                int32_t y = ef_scaled_twice(sums[k] + p->offset, p->multiplier, p->shift) + p->out_zero;
                *out++ = (int8_t)ef_clamp(y, INT8_MIN, INT8_MAX);
            }
        }
}
