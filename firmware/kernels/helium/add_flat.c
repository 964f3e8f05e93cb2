/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums (and differences: a2 < 0) of two tensors of the same shape, in the flat form, for Helium: a1 * a >> 8 is the high
 * half of a1 * (a << 24).
 */
#include "scale.h"

EF_FAST_CODE void ef_add_helium_flat(const void *layer, uint8_t *arena)
{
    const ef_add_flat_layer *p = layer;
    const int8_t *a = (const int8_t *)arena + p->a, *b = (const int8_t *)arena + p->b;
    int8_t *out = (int8_t *)arena + p->out;
    int32x4_t a1 = vdupq_n_s32(p->a1), a2 = vdupq_n_s32(p->a2), c = vdupq_n_s32(p->c);
    for (int32_t n = p->n; n > 0; n -= EF_LANES, a += EF_LANES, b += EF_LANES, out += EF_LANES) {
        mve_pred16_t some = ef_first(n);
        int32x4_t x = vmulhq_s32(vshlq_n_s32(vldrbq_z_s32(a, some), 24), a1);
        int32x4_t y = vmulhq_s32(vshlq_n_s32(vldrbq_z_s32(b, some), 24), a2);
        int32x4_t sum = vshrq_n_s32(vaddq_s32(vaddq_s32(x, y), c), 20);
        vstrbq_p_s32(out, ef_clamp4(sum, INT8_MIN, INT8_MAX), some);
    }
}
