/* SPDX-License-Identifier: Apache-2.0
 *
 * Average and max pool for the Arm DSP extension: four channels at a time. Only what lies inside the picture counts.
 *
 * Limit of the average: windows of at most 256 elements, whose sums fit 16 bits.
 */
#include "../portable/fixed_point.h"
#include "../portable/window.h"
#include "intrinsics.h"

enum { CHANNELS = 4 };

/* Sums of channels 0 to 3 from the two halves of even and of odd bytes. */
static inline void sum_window(const ef_window *w, int32_t channel, int32_t channels, int32_t *sums)
{
    const int8_t *row = w->first + channel;
    uint32_t even = 0, odd = 0;
    for (int32_t y = w->rows; y > 0; y--, row += w->row_step) {
        const int8_t *in = row;
        for (int32_t x = w->columns; x > 0; x--, in += w->step) {
            uint32_t word = ef_load_bytes(in, channels);
            even = ef_add_even_bytes(even, word);
            odd = ef_add_odd_bytes(odd, word);
        }
    }
    sums[0] = (int16_t)even;
    sums[1] = (int16_t)odd;
    sums[2] = (int32_t)even >> 16;
    sums[3] = (int32_t)odd >> 16;
}

static inline uint32_t largest_of_window(const ef_window *w, int32_t channel, int32_t channels)
{
    const int8_t *row = w->first + channel;
    uint32_t largest = 0x80808080u;
    for (int32_t y = w->rows; y > 0; y--, row += w->row_step) {
        const int8_t *in = row;
        for (int32_t x = w->columns; x > 0; x--, in += w->step)
            largest = ef_larger_bytes(ef_load_bytes(in, channels), largest);
    }
    return largest;
}

static inline void average(const ef_pool_layer *p, const ef_window *w, int32_t channel, int32_t channels, int8_t *out)
{
    int32_t sums[CHANNELS], count = w->rows * w->columns;
    if (channels >= CHANNELS) sum_window(w, channel, CHANNELS, sums);
    else sum_window(w, channel, channels, sums);
    for (int32_t i = 0; i < CHANNELS && i < channels; i++)
        out[i] = (int8_t)ef_clamp(ef_rounded_quotient(sums[i], count), p->act_min, p->act_max);
}

static inline void largest(const ef_pool_layer *p, const ef_window *w, int32_t channel, int32_t channels, int8_t *out)
{
    uint32_t word = channels >= CHANNELS ? largest_of_window(w, channel, CHANNELS)
                                         : largest_of_window(w, channel, channels);
    for (int32_t i = 0; i < CHANNELS && i < channels; i++)
        out[i] = (int8_t)ef_clamp((int8_t)(word >> (8 * i)), p->act_min, p->act_max);
}

static inline __attribute__((always_inline)) void pool(const void *layer, uint8_t *arena, int maximum)
{
    const ef_pool_layer *p = layer;
    const int8_t *picture = (const int8_t *)arena + p->in;
    int8_t *out = (int8_t *)arena + p->out;
    for (int32_t n = 0; n < p->batches; n++, picture += p->in_h * p->in_w * p->channels)
        for (int32_t y = 0; y < p->out_h; y++)
            for (int32_t x = 0; x < p->out_w; x++, out += p->channels) {
                ef_window w = ef_window_at(p, picture, y, x);
                for (int32_t c = 0; c < p->channels; c += CHANNELS) {
                    if (maximum) largest(p, &w, c, p->channels - c, out + c);
                    else average(p, &w, c, p->channels - c, out + c);
                }
            }
}

EF_FAST_CODE void ef_average_pool_dsp_exact(const void *layer, uint8_t *arena) { pool(layer, arena, 0); }

EF_FAST_CODE void ef_max_pool_dsp_exact(const void *layer, uint8_t *arena) { pool(layer, arena, 1); }
