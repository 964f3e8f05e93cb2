/* SPDX-License-Identifier: Apache-2.0
 *
 * Any int8 function of one int8, as the table of its 256 answers.
 */
#include <edgefleet/kernels.h>

EF_FAST_CODE void ef_table_portable_bytes(const void *layer, uint8_t *arena)
{
    const ef_table_layer *p = layer;
    const uint8_t *table = (const uint8_t *)(p + 1), *in = arena + p->in;
    uint8_t *out = arena + p->out;
    int32_t n = p->n;
    for (; n >= 4; n -= 4, in += 4, out += 4) {
        out[0] = table[in[0]];
        out[1] = table[in[1]];
        out[2] = table[in[2]];
        out[3] = table[in[3]];
    }
    for (; n > 0; n--) *out++ = table[*in++];
}
