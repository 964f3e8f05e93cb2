/* SPDX-License-Identifier: Apache-2.0
 *
 * Nearest neighbour: which row and column each output element comes from is known when the code is generated.
 */
#include <edgefleet/kernels.h>

#include "memory.h"

static void resize_row(const ef_resize_nearest_layer *p, const uint16_t *columns, const uint8_t *in, uint8_t *out)
{
    size_t channels = (size_t)p->channels;
    for (int32_t x = 0; x < p->out_w; x++, out += channels) {
        const uint8_t *from = in + columns[x] * channels;
        if (channels == 1)
            *out = *from;
        else
            memcpy(out, from, channels);
    }
}

EF_FAST_CODE void ef_resize_nearest_portable_rows(const void *layer, uint8_t *arena)
{
    const ef_resize_nearest_layer *p = layer;
    const uint16_t *rows = (const uint16_t *)(p + 1), *columns = rows + p->out_h;
    const uint8_t *in = arena + p->in;
    uint8_t *out = arena + p->out;
    size_t in_row = (size_t)p->in_w * (size_t)p->channels, out_row = (size_t)p->out_w * (size_t)p->channels;
    for (int32_t n = 0; n < p->batches; n++, in += (size_t)p->in_h * in_row)
        for (int32_t y = 0; y < p->out_h; y++, out += out_row) {
            if (y > 0 && rows[y] == rows[y - 1])
                memcpy(out, out - out_row, out_row);
            else
                resize_row(p, columns, in + rows[y] * in_row, out);
        }
}
